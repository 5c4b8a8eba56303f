//! What clients see of the registry protocol, and of the manual page.

mod bad_requests;
mod manual_page;
mod probes;
mod specification;
mod transfers;
mod upstream_selection;
