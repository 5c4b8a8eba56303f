//! The route of the HTTP trigger.

use anyhow::{Result, bail};

/// A path that leads to the component: exactly (`/here`), or with everything below it (`/here/...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Without the wildcard; empty for `/...`.
    prefix: String,
    wildcard: bool,
}

impl Route {
    /// Parses the manifest's notation. Named segments (`/:user`) are refused: this host has no use for them.
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

    /// Without the wildcard; empty for `/...`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether a request for `path` is the component's.
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.prefix)
            .is_some_and(|rest| match self.wildcard {
                true => rest.is_empty() || rest.starts_with('/'),
                // Spin's router takes a trailing slash for the same path.
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
    fn refuses_what_it_cannot_route() {
        for route in ["", "v2", "/:name/...", "/.../x"] {
            assert!(Route::parse(route).is_err(), "{route}");
        }
    }
}
