//! Files that are compared with what the code makes, or rewritten where that was asked for.

use std::{fs, path::PathBuf};

const ASK: &str = "GHOST_REGENERATE_VECTORS";

/// A path inside the `frames` folder.
pub(crate) fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// True if the files are to be rewritten.
pub(crate) fn regenerating() -> bool {
    std::env::var_os(ASK).is_some_and(|value| value == "1")
}

/// Fails if the file differs from `made`, or rewrites it.
pub(crate) fn check(relative: &str, made: &[u8]) {
    let path = path(relative);
    if regenerating() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Other tests read the file meanwhile: it is replaced whole.
        let next = path.with_extension("new");
        fs::write(&next, made).unwrap();
        fs::rename(&next, &path).unwrap();
        return;
    }
    let frozen = fs::read(&path).unwrap_or_default();
    assert!(
        frozen == made,
        "frames/{relative} is not what the code makes. If the protocol is meant to change, run the \
         tests with {ASK}=1 and review the diff."
    );
}
