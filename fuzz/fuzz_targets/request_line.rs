//! Whatever path and query a client sends, with whatever method: what parses is clean, and only
//! public hosts are asked.
#![no_main]

use hammal::request::route::{RegistryRequest, Route};
use hammal_fuzz::{Scripted, World, answer, assert_public};
use http::{Method, Request, Uri};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // As raw text first, with more in it than a host lets through.
    let (path, query) = text
        .split_once('?')
        .map_or((text, None), |(path, query)| (path, Some(query)));
    if let Ok(asked) = RegistryRequest::parse(&Method::GET, path, query) {
        let upstream = asked.route.path();
        // A tag may have two dots in it.
        let mut segments = upstream.split('/').skip(1);
        assert!(
            !segments.any(|segment| matches!(segment, "." | "..")) && !upstream.contains('%'),
            "{upstream}"
        );
        let again = Route::of_upstream(&upstream.parse::<Uri>().expect("a path"));
        let page = matches!(asked.route, Route::Page | Route::Robots);
        assert!(page || again == Some(asked.route), "{upstream}");
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
    let world = World {
        answers: vec![answer(200, &headers, b"{}")],
        ..World::default()
    };
    let platform = Scripted::new(world);
    platform.handle(request);
    assert_public(&platform.asked());
    let log = platform.log();
    assert!(
        log.iter()
            .all(|line| line.starts_with("hammal ") && !line.contains(char::is_control)),
        "{log:?}"
    );
});
