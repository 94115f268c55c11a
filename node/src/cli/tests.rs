use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_declared_commands_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_parses() {
    let peer = "12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq";
    let to = "0x00000000000000000000000000000000000000aa";
    let id = "11".repeat(32);
    for line in [
        "ghostd init --home a".into(),
        "ghostd init --home a --genesis g.toml".into(),
        "ghostd run --home a --listen /ip4/127.0.0.1/udp/0/quic-v1 --listen /ip6/::1/udp/0/quic-v1".into(),
        format!("ghostd run --home a --peer /ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer}"),
        "ghostd status --json".into(),
        "ghostd --home a status".into(),
        format!("ghostd status --node /ip4/127.0.0.1/udp/4001/quic-v1/p2p/{peer}"),
        format!("ghostd status --node /dns4/example.org/udp/4001/quic-v1/p2p/{peer}"),
        "ghostd peers".into(),
        "ghostd peers list --json".into(),
        format!("ghostd peers add /ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer}"),
        format!("ghostd peers drop {peer}"),
        format!("ghostd peers ban {peer} --for 1h"),
        format!("ghostd peers unban {peer}"),
        format!("ghostd peers explain {peer}"),
        format!("ghostd peers find {peer}"),
        format!("ghostd peers find {} --label mailbox --json", "5f".repeat(32)),
        "ghostd peers export --home a".into(),
        "ghostd peers import peers.json --home a".into(),
        format!("ghostd tx send --to {to} --value 340282366920938463463374607431768211455 --wait"),
        format!("ghostd tx send --to {to} --payload-hex c0ffee --key k --gas-price 3"),
        "ghostd tx send --payloads file --json".into(),
        format!("ghostd tx get {id} --payload-out -"),
        "ghostd tx pending --limit 1024".into(),
        "ghostd block get 17".into(),
        format!("ghostd block get {id}"),
        "ghostd block get head --transactions".into(),
        "ghostd block follow --count 3".into(),
        format!("ghostd state {to}"),
        "ghostd account new alice".into(),
        "ghostd account new --out file".into(),
        "ghostd account address --key file".into(),
        "ghostd price list".into(),
        "ghostd price get GHO/USD --proof".into(),
        "ghostd price follow GHO/USD BTC/USD --rate 200".into(),
        "ghostd price publish GHO/USD --from - --key k".into(),
        "ghostd doctor".into(),
        "ghostd completions zsh".into(),
    ] {
        if let Err(error) = parse(&line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    let to = "0x00000000000000000000000000000000000000aa";
    for line in [
        "ghostd".into(),
        "ghostd fly".into(),
        "ghostd status --hom a".into(),
        "ghostd tx send".into(),
        "ghostd tx send --to 0xaa".into(),
        format!("ghostd tx send --to {to} --payload-hex aa --payload-file f"),
        format!("ghostd tx send --to {to} --payload-hex abc"),
        "ghostd tx pending --limit 1025".into(),
        "ghostd tx pending --limit 0".into(),
        "ghostd block get tail".into(),
        "ghostd peers ban me".into(),
        "ghostd peers find nobody".into(),
        format!("ghostd peers find {} --label {}", "5f".repeat(32), "l".repeat(33)),
        "ghostd init --slot-ms 99".into(),
        "ghostd init --slot-ms 60001".into(),
        "ghostd account new ../../evil".into(),
        "ghostd account new a --out b".into(),
        "ghostd status --node nowhere".into(),
        "ghostd status --node /ip4/127.0.0.1/udp/4001/quic-v1".into(),
        "ghostd status --timeout 0".into(),
        "ghostd status --log a=b=c".into(),
        "ghostd init --home c --listen /ip4/1.2.3.4/tcp/4".into(),
        "ghostd init --chain-name=".into(),
        format!("ghostd init --chain-name {}", "n".repeat(65)),
        "ghostd run --listen /ip4/1.2.3.4/tcp/4".into(),
        "ghostd run --listen /dns/example.org/udp/1/quic-v1".into(),
        "ghostd run --log a=b=c".into(),
        "ghostd run --peer /ip4/127.0.0.1/udp/1/quic-v1".into(),
        "ghostd peers add /ip4/127.0.0.1/udp/1/quic-v1".into(),
        "ghostd peers ban 12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq --for 0s".into(),
        "ghostd peers ban 12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq --for 999ms".into(),
    ] {
        let error = parse(&line).expect_err(&line);
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
    for line in ["ghostd --help", "ghostd tx send --help", "ghostd --version"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
    }
}

#[test]
fn the_same_hint_whenever_an_address_does_not_say_whom_to_expect() {
    let bare = "/ip4/127.0.0.1/udp/1/quic-v1";
    for line in [
        format!("ghostd run --peer {bare}"),
        format!("ghostd peers add {bare}"),
        format!("ghostd status --node {bare}"),
    ] {
        let error = parse(&line).expect_err(&line).to_string();
        assert!(error.contains("end it with /p2p/ and the PeerId, as `ghostd status`"), "{line}: {error}");
    }
}

#[test]
fn who_gives_a_transfer_a_gas_limit_is_told_that_it_needs_none() {
    let line = "ghostd tx send --to 0x00000000000000000000000000000000000000aa --gas 5";
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = error.to_string();
    assert!(error.contains("a transfer takes exactly the gas") && !error.contains("similar"), "{error}");
}

#[test]
fn help_shows_only_what_means_something_there() {
    let help = |path: &[&str]| {
        let mut command = command();
        let mut at = &mut command;
        for name in path {
            at = at.find_subcommand_mut(name).unwrap();
        }
        at.render_long_help().to_string()
    };
    for path in [&["init"][..], &["run"], &["account"], &["account", "new"], &["peers", "export"]] {
        let help = help(path);
        assert!(
            !help.contains("--node") || path == ["init"] && !help.contains("--node <"),
            "{path:?}: {help}"
        );
        assert!(!help.contains("--timeout") && help.contains("--home"), "{path:?}: {help}");
    }
    assert!(!help(&["completions"]).contains("--json"));
    for path in [&["status"][..], &["peers", "list"], &["tx", "send"], &["doctor"]] {
        let help = help(path);
        assert!(help.contains("--node") && help.contains("--timeout") && help.contains("--json"), "{path:?}");
    }
    // Hidden is not refused: scripts give the same flags to all, before the command or behind it.
    let peer = "12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq";
    for line in [
        format!("ghostd account list --node /ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer} --timeout 3s --json"),
        format!("ghostd --node /ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer} --json status"),
    ] {
        let matches = command().try_get_matches_from(line.split(' ')).unwrap();
        let cli = Cli::from_arg_matches(&matches).unwrap();
        assert!(cli.globals.node.is_some() && cli.globals.json, "{line}");
    }
    let main = command().render_long_help().to_string();
    assert!(main.contains("one multiaddr a line") && main.contains("head -n 1 a/address"), "{main}");
}

#[test]
fn help_of_every_command_is_there_and_top_commands_show_examples() {
    let mut command = Cli::command();
    assert!(command.render_help().to_string().contains("Examples:"));
    for sub in command.get_subcommands() {
        assert!(sub.get_about().is_some(), "{} says what it does", sub.get_name());
    }
    for name in ["init", "run", "peers", "tx", "block", "state", "account", "doctor", "completions"] {
        let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
        assert!(help.contains("Example"), "{name}");
    }
}

#[test]
fn durations_are_written_with_units() {
    for (text, ms) in
        [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("7", 7_000), ("1.5s", 1_500)]
    {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for bad in ["", "s", "5 parsecs", "-1s", "1e99h", "..s"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
    assert!(parse_duration("5 parsecs").unwrap_err().contains("a number of seconds, or"));
    assert!(parse_patience("0ms").is_err() && parse_patience("1ms").is_ok());
}

#[test]
fn figures_for_people() {
    use super::output::{bytes_for_people, duration_for_people};
    let bytes = [0, 1_023, 1_024, 1 << 20, u64::MAX].map(bytes_for_people);
    assert_eq!(bytes, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16777216.0 TiB"]);
    let times = [0, 999, 1_000, 59_999, 60_000, 3_600_000, 86_400_000].map(duration_for_people);
    assert_eq!(times, ["0 ms", "999 ms", "1.0 s", "60.0 s", "1 min 0 s", "1 h 0 min", "1 d 0 h"]);
}

/// Runs a whole command in this process; what it prints goes to the test's own output.
fn code(args: &[&str]) -> ExitCode {
    main(std::iter::once("ghostd").chain(args.iter().copied()))
}

#[test]
fn init_makes_a_development_chain_and_a_second_node_joins_it() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let init = |home: &PathBuf, more: &[&str]| {
        let cli =
            Cli::try_parse_from(["ghostd", "init", "--home", home.to_str().unwrap()].iter().chain(more))
                .unwrap();
        let Command::Init(args) = &cli.command else { panic!("not init") };
        init::run(&cli.globals, args, &Out::new(true))
    };
    init(&a, &[]).unwrap();
    init(&b, &["--genesis", a.join("genesis.toml").to_str().unwrap()]).unwrap();
    let (a, b) = (Home::open(a).unwrap(), Home::open(b).unwrap());
    assert_eq!(a.genesis().unwrap().id(), b.genesis().unwrap().id());
    assert_ne!(a.node_key().unwrap().public(), b.node_key().unwrap().public());
    assert_eq!(
        crate::config::Config::load(&a.config_path()).unwrap().chain.role,
        crate::config::Role::Authority
    );
    assert_eq!(
        crate::config::Config::load(&b.config_path()).unwrap().chain.role,
        crate::config::Role::Follower
    );
    let authority = crate::home::read_key_file(&a.root().join("authority.key")).unwrap();
    assert_eq!(a.genesis().unwrap().authorities.keys(), [authority.public()]);
    let dev = crate::home::read_key_file(&a.root().join("accounts/dev.key")).unwrap();
    assert_eq!(a.genesis().unwrap().allocation[&dev.address()], init::DEVELOPMENT_BALANCE);
    assert!(!b.root().join("accounts").exists() && !b.root().join("authority.key").exists());
    let again = init(&a.root().to_owned(), &[]).unwrap_err();
    assert!(again.text().contains("nothing in it was changed"), "{}", again.text());
    assert_eq!(again.code(), 1);
}

#[test]
fn asking_where_no_node_runs_fails_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("none");
    let asked = code(&["status", "--home", home.to_str().unwrap()]);
    assert_eq!(format!("{asked:?}"), format!("{:?}", ExitCode::from(1)));
    let usage = code(&["status", "--nonsense"]);
    assert_eq!(format!("{usage:?}"), format!("{:?}", ExitCode::from(2)));
}

#[test]
fn completions_name_the_commands() {
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "ghostd", &mut script);
    let script = String::from_utf8(script).unwrap();
    assert!(script.contains("pending") && script.contains("--payload-file"));
}
