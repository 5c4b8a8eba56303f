//! A path and query of a client: what parses is normal, and requests go to public hosts only.
#![no_main]

use hammal::request::RegistryRequest;
use hammal::request::route::Route;
use hammal_fuzz::{answer, assert_public, handle, scripted};
use http::{Method, Request, Uri};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // First as raw text, with more in it than a host lets through.
    let (path, query) = text
        .split_once('?')
        .map_or((text, None), |(path, query)| (path, Some(query)));
    if let Ok(parsed) = RegistryRequest::parse(&Method::GET, path, query) {
        let upstream = parsed.route.path();
        // A tag may have two dots in it.
        let mut segments = upstream.split('/').skip(1);
        assert!(
            !segments.any(|segment| matches!(segment, "." | "..")) && !upstream.contains('%'),
            "{upstream}"
        );
        let again = Route::from_registry_path(&upstream.parse::<Uri>().expect("a path"));
        let page = !parsed.route.is_registry();
        assert!(page || again == Some(parsed.route), "{upstream}");
    }
    // Then as a request that arrives.
    let Ok(uri) = format!("http://mirror.example/{text}").parse::<Uri>() else {
        return;
    };
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    let headers = [(
        "content-type",
        b"application/vnd.oci.image.index.v1+json".as_slice(),
    )];
    let platform = scripted([answer(200, &headers, b"{}")]);
    handle(&platform, request);
    assert_public(&platform.requests());
    let log = platform.log();
    assert!(
        log.iter()
            .all(|line| line.starts_with("app=hammal ") && !line.contains(char::is_control)),
        "{log:?}"
    );
});
