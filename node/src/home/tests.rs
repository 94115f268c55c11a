use std::os::unix::fs::PermissionsExt;

use super::*;

fn contents() -> Contents {
    let key = |n: u8| KeyPair::from_seed(&[n; 32]);
    Contents {
        config: "# empty\n".into(),
        genesis: String::new(),
        node_key: key(1),
        operator_key: key(2),
        authority_key: Some(key(3)),
        accounts: vec![("dev".into(), key(4))],
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_home_keeps_its_secrets_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::create(dir.path().join("a"), &contents()).unwrap();
    assert_eq!(mode(home.root()), 0o700);
    for file in ["node.key", "operator.key", "authority.key", "accounts/dev.key"] {
        assert_eq!(mode(&home.root().join(file)), 0o600, "{file}");
    }
    assert_eq!(home.node_key().unwrap().public(), KeyPair::from_seed(&[1; 32]).public());
    assert_eq!(home.operator_key().unwrap().public(), KeyPair::from_seed(&[2; 32]).public());
}

#[test]
fn a_home_is_never_overwritten_and_half_a_home_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::create(dir.path(), &contents()).unwrap();
    assert!(matches!(Home::create(dir.path(), &contents()), Err(HomeError::Exists(_))));
    fs::remove_file(home.config_path()).unwrap();
    assert!(matches!(Home::open(dir.path()), Err(HomeError::Missing(_))));
    let error = Home::create(dir.path(), &contents()).unwrap_err();
    assert!(matches!(error, HomeError::Exists(_)), "a key that is there is not lost: {error}");
}

#[test]
fn keys_that_others_can_read_are_refused_with_the_command_that_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.key");
    write_key_file(&path, &KeyPair::from_seed(&[7; 32])).unwrap();
    for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o610, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = read_key_file(&path);
        assert_eq!(read.is_ok(), good, "mode {mode:o}");
        if let Err(error) = read {
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
    }
}

#[test]
fn key_files_from_both_sides_of_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.key");
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let digits = "07".repeat(32);
    for padding in [0, 256 - 64] {
        write(&format!("{digits}{}", " ".repeat(padding)));
        assert_eq!(read_key_file(&path).unwrap().public(), KeyPair::from_seed(&[7; 32]).public());
    }
    for bad in [format!("{digits}{}", " ".repeat(257 - 64)), digits[1..].to_owned(), String::new()] {
        write(&bad);
        let error = read_key_file(&path).unwrap_err();
        assert!(matches!(error, HomeError::BadKey { .. }), "{error}");
        assert!(!error.to_string().contains(&digits[..16]), "an error never shows the key: {error}");
    }
}

#[test]
fn a_key_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.key");
    write_key_file(&path, &fresh_key().unwrap()).unwrap();
    assert!(write_key_file(&path, &fresh_key().unwrap()).is_err());
}

#[test]
fn two_processes_cannot_have_one_home() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::create(dir.path(), &contents()).unwrap();
    assert_eq!(home.running().unwrap(), None, "before any node ran");
    let lock = home.lock().unwrap();
    assert_eq!(home.running().unwrap(), Some(Some(std::process::id())));
    let error = home.lock().unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(lock);
    assert_eq!(home.running().unwrap(), None, "after it ended");
    home.lock().unwrap();
}

#[test]
fn the_address_of_a_node_that_does_not_run_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::create(dir.path(), &contents()).unwrap();
    let bound: Multiaddr = "/ip4/0.0.0.0/udp/4001/quic-v1".parse().unwrap();
    home.write_addresses(&[bound, "/ip6/::/udp/9/quic-v1".parse().unwrap()]).unwrap();
    assert!(matches!(home.addresses(), Err(HomeError::NotRunning(_))), "left by an earlier node");
    let _lock = home.lock().unwrap();
    let texts: Vec<String> = home.addresses().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["/ip4/127.0.0.1/udp/4001/quic-v1", "/ip6/::1/udp/9/quic-v1"]);
    home.forget_addresses();
    assert!(matches!(home.addresses(), Err(HomeError::Malformed { .. })), "still starting");
}

#[test]
fn a_huge_genesis_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("genesis.toml");
    let huge = File::create(&path).unwrap();
    huge.set_len(GENESIS_FILE_BYTES_MAX + 1).unwrap();
    assert!(matches!(read_genesis(&path), Err(HomeError::Malformed { .. })));
    huge.set_len(GENESIS_FILE_BYTES_MAX).unwrap();
    assert!(matches!(read_genesis(&path), Err(HomeError::Genesis { .. })), "read, and no genesis");
}
