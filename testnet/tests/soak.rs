//! A short soak: nodes die and come back, adversaries come, nothing is lost and nothing grows.

use std::process::Command;

#[test]
fn a_short_soak_with_churn_and_adversaries_passes() {
    let args = ["soak", "--for", "14s", "--tps", "20", "--churn", "5s", "--adversary", "liar", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_testnet")).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&error);
    assert_eq!(output.status.code(), Some(0), "{json} {error}");
    assert_eq!((&json["passed"], &json["network"]["heads_agree"]), (&true.into(), &true.into()), "{json}");
    assert!(json["killed"].as_u64().unwrap() >= 1, "{json}");
    // Node 0 lives through all of it.
    let lives = json["lives"].as_array().unwrap();
    assert!(lives.iter().any(|life| life["node"] == 0), "{json}");
    assert_eq!(json["network"]["tx"]["submitted"], json["network"]["tx"]["included"], "{json}");
}
