//! Limits that more than one module knows.

/// A longer header in bytes is refused, and so are a client's headers that are longer together. Over HTTP/2 an upstream
/// may end the connection for a longer one (nginx does), and with it what everybody else has under way there.
pub const MAX_HEADER: usize = 8 * 1024;
