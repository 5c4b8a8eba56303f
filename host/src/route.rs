//! The route of the HTTP trigger, and what of it the component is told.

use anyhow::{Result, bail};

/// A path that leads to the component: exactly (`/here`), or with everything below it (`/here/...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    raw: String,
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
        if path.split('/').any(|segment| segment.starts_with(':') || segment.contains("...")) {
            bail!("route {raw:?} is not supported by this host; use an exact path or one that ends with \"/...\"");
        }
        Ok(Self { raw: raw.to_owned(), wildcard })
    }

    /// As written in the manifest.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Without the wildcard; empty for `/...`.
    pub fn prefix(&self) -> &str {
        if self.wildcard { self.raw.strip_suffix("/...").unwrap_or(&self.raw) } else { &self.raw }
    }

    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// What of `path` lies below the route (`spin-path-info`), or `None` where the route doesn't lead to.
    pub fn path_info<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.prefix())?;
        match self.wildcard {
            true => (rest.is_empty() || rest.starts_with('/')).then_some(rest),
            // Spin's router takes a trailing slash for the same path.
            false => (rest.is_empty() || rest == "/").then_some(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_spin_does() {
        let cases = [
            ("/...", "/", Some("/")),
            ("/...", "/v2/a/b", Some("/v2/a/b")),
            ("/v2/...", "/v2/a", Some("/a")),
            ("/v2/...", "/v2", Some("")),
            ("/v2/...", "/v2/", Some("/")),
            ("/v2/...", "/v20", None),
            ("/v2", "/v2", Some("")),
            ("/v2", "/v2/", Some("")),
            ("/v2", "/v2/a", None),
        ];
        for (route, path, expected) in cases {
            assert_eq!(Route::parse(route).unwrap().path_info(path), expected, "{route} {path}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_route() {
        for route in ["", "v2", "/:name/...", "/.../x"] {
            assert!(Route::parse(route).is_err(), "{route}");
        }
    }
}
