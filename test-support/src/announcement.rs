//! Where a mirror that was just started listens: the announcement of `spin up` and of the embedded
//! host on stdout.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// The arguments with which `host up` announces its address for programs. Spin 3 has no such flag;
/// its announcement for people has the address too.
pub fn format(host: &Path) -> &'static [&'static str] {
    if is_spin_3(&version(host)) {
        &[]
    } else {
        &["--format", "json"]
    }
}

/// Returns the address, once it has been announced: in the JSON object of `--format json`, or after
/// `Serving`.
pub fn address(stdout: &str) -> Option<SocketAddr> {
    let url = url(stdout)?;
    let address = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))?;
    address.trim_end_matches('/').parse().ok()
}

fn url(stdout: &str) -> Option<String> {
    // A line without its end may not be complete yet.
    let (complete, _) = stdout.rsplit_once('\n')?;
    if let Some(url) = complete
        .lines()
        .find_map(|line| line.strip_prefix("Serving "))
    {
        return Some(url.trim().to_owned());
    }
    let json = &stdout[stdout.find('{')?..];
    let mut objects = serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>();
    let announcement = objects.next()?.ok()?;
    Some(announcement["base_url"].as_str()?.to_owned())
}

/// What `--version` prints.
fn version(host: &Path) -> String {
    Command::new(host)
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// `spin 3.4.1 (…)`, not `hammal-host 0.1.0`.
fn is_spin_3(version: &str) -> bool {
    version.starts_with("spin 3.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_json_and_in_plain_text() {
        let expected = Some(SocketAddr::from(([127, 0, 0, 1], 3210)));
        for stdout in [
            "\nServing http://127.0.0.1:3210\nAvailable Routes:\n  hammal: http://127.0.0.1:3210 (wildcard)\n",
            "Serving http://127.0.0.1:3210/\n",
            "Serving https://127.0.0.1:3210\n",
            "{\n  \"base_url\": \"http://127.0.0.1:3210\",\n  \"routes\": []\n}\n",
            "Building component hammal\n{\"base_url\":\"http://127.0.0.1:3210/\"}\n",
        ] {
            assert_eq!(address(stdout), expected, "{stdout}");
        }
    }

    #[test]
    fn waits_for_a_complete_announcement() {
        for stdout in [
            "",
            "\n",
            "Building component hammal\n",
            "Serving http://127.0.0.1:32",
            "{\n  \"base_url\": \"http://127.0.0.1:3210\",\n",
        ] {
            assert_eq!(address(stdout), None, "{stdout}");
        }
    }

    #[test]
    fn tells_spin_3_from_later_versions_and_the_embedded_host() {
        assert!(is_spin_3("spin 3.4.1 (1234567 2025-09-01)\n"));
        for version in [
            "spin 4.1.0-pre0 (1234567 2026-05-01)\n",
            "hammal-host 0.1.0\n",
            "",
        ] {
            assert!(!is_spin_3(version), "{version}");
        }
    }
}
