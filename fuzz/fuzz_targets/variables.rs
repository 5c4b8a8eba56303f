//! Whatever the operator's variables hold (`name=value`, one a line): a mistake is named, and its
//! value not shown.
#![no_main]

use futures_util::future::FutureExt;
use hammal::config::{Config, VARIABLES};
use hammal_fuzz::{MANIFEST, Scripted, World, get};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let set = text.split('\n').filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let (name, _) = VARIABLES.iter().find(|(known, _)| *known == name)?;
        Some((*name, value.to_owned()))
    });
    let platform = Scripted::new(World {
        variables: set.collect(),
        ..World::default()
    });
    let read = Config::read(&platform)
        .now_or_never()
        .expect("nothing waits");
    if let Err(mistake) = &read {
        assert!(VARIABLES.iter().any(|(name, _)| *name == mistake.variable));
    }
    let response = platform.handle(get(MANIFEST));
    assert_eq!(response.status() == 500, read.is_err());
});
