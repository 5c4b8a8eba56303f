//! The operator's variables, `name=value` one a line: the error names the variable that is wrong.
#![no_main]

use futures_executor::block_on;
use hammal::config::{Config, VARIABLES};
use hammal_fuzz::{MANIFEST, get, handle, scripted};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let set = text.split('\n').filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let (name, _) = VARIABLES.iter().find(|(known, _)| *known == name)?;
        Some((*name, value.to_owned()))
    });
    let platform = scripted([]);
    for (name, value) in set {
        platform.set_variable(name, &value);
    }
    let read = block_on(Config::read(&platform));
    if let Err(error) = &read {
        assert!(VARIABLES.iter().any(|(name, _)| *name == error.variable));
    }
    let response = handle(&platform, get(MANIFEST));
    assert_eq!(response.status() == 500, read.is_err());
});
