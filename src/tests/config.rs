//! Variables of the application.

use super::*;
use crate::config::VARIABLES;

/// All but the settings of the blob store and of the operator's accounts.
const READ_BY_DEFAULT: usize = VARIABLES.len() - 8;

#[tokio::test]
async fn names_a_variable_with_a_wrong_value_and_does_not_show_the_value() {
    let platform = Scripted::new([]);
    platform.set_variable("first_byte_timeout", "my secret");
    let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (500, "UNKNOWN")
    );
    assert!(received.text().contains("first_byte_timeout"));
    assert!(!format!("{}{:?}", received.text(), platform.log()).contains("my secret"));
}

#[tokio::test]
async fn serves_nothing_while_variables_cannot_be_read() {
    let platform = Scripted::new([]);
    platform.fail_variables();
    let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (500, "UNKNOWN")
    );
    assert!(
        received
            .text()
            .contains("the variable upstream of this mirror must be readable")
    );
    assert!(platform.log()[0].contains("its provider failed"));
}

#[tokio::test]
async fn simultaneous_first_requests_read_the_variables_once() {
    let platform = Scripted::default();
    let mirror = Mirror::new(platform.clone());
    let received =
        futures_util::future::join_all((0..16).map(|_| send(&mirror, get("/v2/")))).await;
    assert!(received.iter().all(|received| received.status() == 200));
    assert_eq!(platform.variables_read(), READ_BY_DEFAULT);
}

#[tokio::test]
async fn settings_of_what_is_off_are_not_read() {
    for (variable, value, read) in [
        ("tag_ttl", "0", READ_BY_DEFAULT),
        (
            "blob_store",
            "https://s3.example/bucket/",
            READ_BY_DEFAULT + 7,
        ),
        (
            "upstream_credentials",
            "ghcr.io=alice:secret",
            READ_BY_DEFAULT + 1,
        ),
    ] {
        let platform = Scripted::default();
        platform.set_variable(variable, value);
        platform.set_variable("blob_store_access_key", "access");
        platform.set_variable("blob_store_secret_key", "key");
        send(&Mirror::new(platform.clone()), get("/v2/")).await;
        assert_eq!(platform.variables_read(), read, "{variable}");
    }
}
