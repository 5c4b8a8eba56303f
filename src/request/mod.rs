//! A request, parsed.

pub mod accept;
pub mod cdn_loop;
pub mod external_url;
pub mod query;
pub mod route;
