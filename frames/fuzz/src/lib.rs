//! What the targets have in common. Their bodies are in `ghost_frames::fuzzing`, where the ordinary
//! tests run them too.

pub use ghost_frames::fuzzing;
pub use libfuzzer_sys;

use ghost_frames::{Kind, frame::REGISTRY};

/// The kind with this name in the registry.
pub fn kind_named(name: &str) -> Kind {
    REGISTRY.iter().find(|info| info.name == name).expect("targets are named after frames").kind
}

/// Fuzzes the payload of one frame kind.
#[macro_export]
macro_rules! kind {
    ($name:ident) => {
        static KIND: std::sync::LazyLock<ghost_frames::Kind> =
            std::sync::LazyLock::new(|| $crate::kind_named(stringify!($name)));

        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::fuzzing::payload(*KIND, data));
    };
}

/// Fuzzes the reader with whole streams.
#[macro_export]
macro_rules! stream {
    () => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::fuzzing::stream(data));
    };
}
