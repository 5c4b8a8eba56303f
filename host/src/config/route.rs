//! Matches request paths with the route of the HTTP trigger.

use anyhow::{Result, bail};

/// The paths that the component serves: one path (`/a`), or one with all paths below it (`/a/...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path without `/...`; empty for the route `/...`.
    prefix: String,
    wildcard: bool,
}

impl Route {
    /// Parses the route as the manifest writes it. Fails on named segments (`/:user`), which Spin
    /// supports and this host doesn't.
    pub fn parse(raw: &str) -> Result<Self> {
        if !raw.starts_with('/') {
            bail!("route {raw:?} must start with `/`, as in \"/...\"");
        }
        let (path, wildcard) = match raw.strip_suffix("/...") {
            Some(path) => (path, true),
            None => (raw, false),
        };
        if path
            .split('/')
            .any(|segment| segment.starts_with(':') || segment.contains("..."))
        {
            bail!(
                "route {raw:?} is not supported by this host; use an exact path or one that ends with \"/...\""
            );
        }
        Ok(Self {
            prefix: path.to_owned(),
            wildcard,
        })
    }

    /// The path without `/...`; empty for the route `/...`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the route includes all paths below [`Route::prefix`].
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether the component serves `path`.
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.prefix)
            .is_some_and(|rest| match self.wildcard {
                true => rest.is_empty() || rest.starts_with('/'),
                // Spin's router ignores a trailing slash.
                false => rest.is_empty() || rest == "/",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_spin_does() {
        let cases = [
            ("/...", "/", true),
            ("/...", "/v2/a/b", true),
            ("/v2/...", "/v2/a", true),
            ("/v2/...", "/v2", true),
            ("/v2/...", "/v2/", true),
            ("/v2/...", "/v20", false),
            ("/v2", "/v2", true),
            ("/v2", "/v2/", true),
            ("/v2", "/v2/a", false),
        ];
        for (route, path, expected) in cases {
            assert_eq!(
                Route::parse(route).unwrap().matches(path),
                expected,
                "{route} {path}"
            );
        }
    }

    #[test]
    fn rejects_unsupported_routes() {
        for route in ["", "v2", "/:name/...", "/.../x"] {
            assert!(Route::parse(route).is_err(), "{route}");
        }
    }
}
