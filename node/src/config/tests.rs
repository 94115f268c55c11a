use proptest::prelude::*;

use super::*;

fn from_text(text: &str) -> Result<Config, ConfigError> {
    let mut layers = Layers::new();
    layers.text(Path::new("config.toml"), text)?;
    layers.finish()
}

const PEER: &str = "12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq";

#[test]
fn what_a_node_would_refuse_to_start_with_is_no_sound_setting() {
    let good = "/ip4/1.2.3.4/udp/4001/quic-v1";
    for (text, expected) in [
        (
            "[network]\nlisten = [\"/ip4/1.2.3.4/tcp/4\"]".into(),
            "`network.listen`: /ip4/1.2.3.4/tcp/4 is nothing",
        ),
        ("[network]\nlisten = [\"/dns/example.org/udp/1/quic-v1\"]".into(), "nothing to listen on"),
        (format!("[network]\npeers = [\"{good}\"]"), "does not say whom to expect there: end it with /p2p/"),
        (format!("[network]\nseeds = [\"{good}\"]"), "`network.seeds`: /ip4/1.2.3.4"),
        (format!("[network]\npeers = [\"/ip4/1.2.3.4/tcp/4/p2p/{PEER}\"]"), "is none of /ip4"),
        ("[network]\nexternal_address = \"/ip4/0.0.0.0/udp/4001/quic-v1\"".into(), "cannot be dialled"),
        ("[log]\nfilter = \"xx=yy=zz\"".into(), "`log.filter`: log filter `xx=yy=zz`"),
    ] {
        let error = from_text(&text).unwrap_err().to_string();
        assert!(error.starts_with("config.toml:2: ") && error.contains(expected), "{error}");
    }
    let text = format!(
        "[network]\nlisten = [\"{good}\"]\npeers = [\"{good}/p2p/{PEER}\"]\nexternal_address = \"{good}\""
    );
    assert_eq!(from_text(&text).unwrap().network.peers.len(), 1);
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Layers::new().environment(variables)?.finish()
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (text, expected) in [
        (
            "[network]\nlistn = []",
            "config.toml:2: `network.listn` is no setting; did you mean `network.listen`?",
        ),
        (
            "\n[network]\n\ninbound = 3",
            "config.toml:4: `network.inbound` is no setting; did you mean `network.inbound_max`?",
        ),
        (
            "[chain]\ncache_mib = 9",
            "config.toml:2: `chain.cache_mib` is no setting; did you mean `store.cache_mib`?",
        ),
        ("[netwrk]\nlisten = []", "config.toml:1: `[netwrk]` is no setting; did you mean `[network]`?"),
        ("listen = []", "config.toml:1: `listen` is no setting; did you mean"),
        ("[rpc]\nzzz = 1", "config.toml:2: `rpc.zzz` is no setting"),
    ] {
        let error = from_text(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}\n  expected {expected}");
    }
}

#[test]
fn every_number_is_held_to_its_range_from_both_sides() {
    let mut seen = 0;
    for field in FIELDS {
        let Kind::Whole { min, max, .. } = field.kind else { continue };
        seen += 1;
        for (number, good) in [
            (i128::from(min) - 1, false),
            (min.into(), true),
            (max.into(), true),
            (i128::from(max) + 1, false),
        ] {
            let text = format!("[{}]\n{} = {number}", field.section, field.name);
            assert_eq!(from_text(&text).is_ok(), good, "{text}");
            let set = from_environment(&[(&field.variable(), &number.to_string())]);
            assert_eq!(set.is_ok(), good, "{} = {number}", field.variable());
        }
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn values_of_another_type_are_refused_with_what_is_allowed() {
    for (text, expected) in [
        (
            "[network]\ninbound_max = \"many\"",
            "config.toml:2: `network.inbound_max` is \"many\"; allowed is 0 to 4096 (connections)",
        ),
        ("[network]\ndiscovery = 1", "`network.discovery` is 1; allowed is true or false"),
        ("[network]\nlisten = \"/ip4/1.2.3.4\"", "allowed is a list of texts"),
        ("[network]\nlisten = [\"1.2.3.4:5\"]", "allowed is a list of which each is a multiaddr such as"),
        ("[rpc]\noperators = [\"me\"]", "a PeerId such as 12D3KooW…; \"me\" is not"),
        ("[metrics]\nlisten = \"9464\"", "an address and a port such as 127.0.0.1:9464, or \"\" for none"),
        ("[log]\nformat = \"xml\"", "allowed is \"text\" or \"json\""),
        ("[chain]\nrole = \"king\"", "allowed is \"follower\" or \"authority\""),
    ] {
        let error = from_text(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n  expected {expected}");
    }
    let error = from_text("[network]\ninbound_max = 1\ninbound_max = 2").unwrap_err().to_string();
    assert!(error.contains("line 3"), "{error}");
}

#[test]
fn later_layers_win() {
    let mut layers = Layers::new();
    layers
        .text(
            Path::new("c"),
            &format!(
                "[network]\ninbound_max = 1\noutbound_max = 2\npeers = [\"/ip4/1.2.3.4/udp/5/quic-v1/p2p/{PEER}\"]"
            ),
        )
        .unwrap();
    let config = layers
        .environment([
            ("GHOSTD_NETWORK_OUTBOUND_MAX".into(), "3".into()),
            ("GHOSTD_LOG".into(), "debug".into()),
        ])
        .unwrap()
        .flag_items("--peer", "network.peers", [format!("/ip4/5.6.7.8/udp/9/quic-v1/p2p/{PEER}")])
        .unwrap()
        .flag("--log", "log.filter", "trace")
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(config.network.inbound_max, 1);
    assert_eq!(config.network.outbound_max, 3);
    assert_eq!(config.network.peers.len(), 2, "flags add to the list");
    assert_eq!(config.log.filter, "trace");
    assert!(config.network.discovery, "what nobody set is as by default");
}

#[test]
fn the_environment_is_read_by_section() {
    let config = from_environment(&[
        ("GHOSTD_NETWORK_LISTEN", "/ip4/1.2.3.4/udp/5/quic-v1, /ip6/::1/udp/6/quic-v1"),
        ("GHOSTD_RPC_STRANGERS", "0"),
        ("GHOSTD_METRICS_LISTEN", "127.0.0.1:9464"),
        ("GHOSTD_HOME", "/somewhere"),
        ("GHOSTD_PORT_4001_TCP", "tcp://10.0.0.1:4001"),
        ("NETWORK_LISTEN", "nonsense"),
    ])
    .unwrap();
    assert_eq!(config.network.listen.len(), 2);
    assert!(!config.rpc.strangers);
    assert_eq!(config.metrics.listen, Some("127.0.0.1:9464".parse().unwrap()));
    let error = from_environment(&[("GHOSTD_NETWORK_LISTN", "x")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "environment variable GHOSTD_NETWORK_LISTN: `network.listn` is no setting; did you mean `network.listen`?"
    );
    let error = from_environment(&[("GHOSTD_RPC_STRANGERS", "maybe")]).unwrap_err().to_string();
    assert!(error.ends_with("is \"maybe\"; allowed is true or false"), "{error}");
}

#[test]
fn the_written_file_reads_back_and_explains_everything() {
    let text = commented_file(&[]);
    assert_eq!(from_text(&text).unwrap(), Config::default());
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(from_text(&uncommented).unwrap(), Config::default(), "the defaults shown are the defaults");
    for field in FIELDS {
        assert!(field.doc.len() > 20, "{} is explained", field.key());
        assert!(uncommented.contains(&format!("\n{} = ", field.name)), "{}", field.key());
    }
    let set = commented_file(&[("chain.role", "\"authority\"".into())]);
    assert_eq!(from_text(&set).unwrap().chain.role, Role::Authority);
}

#[test]
fn a_huge_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    for (length, good) in [(CONFIG_FILE_BYTES_MAX, true), (CONFIG_FILE_BYTES_MAX + 1, false)] {
        fs::write(&path, "\n".repeat(length as usize)).unwrap();
        assert_eq!(Layers::new().file(&path).is_ok(), good);
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = from_text(&text);
    }

    #[test]
    fn no_value_makes_it_panic(which in 0..FIELDS.len(), value in "[0-9a-z\"\\[\\]{}/.:=-]{0,30}") {
        let field = &FIELDS[which];
        let _ = from_text(&format!("[{}]\n{} = {value}", field.section, field.name));
        let _ = from_environment(&[(&field.variable(), &value)]);
    }
}
