#![no_main]
#[path = "../../targets/mod.rs"]
#[allow(dead_code, reason = "each binary runs one of them")]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| (targets::CONFIG.check)(input));
