//! `ghostd account` and `ghostd state`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use ghost_proto::{Address, KeyPair, message};
use serde_json::{Value, json};

use super::{
    Globals,
    connect::{ask, block_ref_json, block_ref_text},
    output::{Failure, Out, bytes_for_people},
};
use crate::home::{Home, fresh_key, read_key_file, write_key_file};

/// `ghostd account`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ghostd account new alice              accounts/alice.key in the home\n  \
                        ghostd account new --out alice.key    a file of its own\n  ghostd account address --key alice.key"
)]
pub struct AccountArgs {
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Make a key and print the address it controls
    New {
        /// Name of the key in the home's accounts/
        #[arg(required_unless_present = "out", conflicts_with = "out", value_parser = account_name)]
        name: Option<String>,
        /// Write the key to this file instead
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the address that a key controls
    Address {
        /// The key file [default: accounts/dev.key of the home]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// List the accounts of the home
    List,
}

/// `ghostd state`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ghostd state 0x00000000000000000000000000000000000000aa --home a")]
pub struct StateArgs {
    /// 0x and 40 hex digits
    address: Address,
}

fn account_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("a name has 1 to 64 letters, digits, - or _".into());
    }
    Ok(text.into())
}

/// The key to sign with: the file that was named, else `accounts/dev.key` of the home.
pub fn signing_key(file: Option<&PathBuf>, home: Option<&Home>) -> Result<KeyPair, Failure> {
    if let Some(file) = file {
        return Ok(read_key_file(file)?);
    }
    let dev = home.map(|home| home.accounts_dir().join("dev.key")).filter(|path| path.exists());
    match dev {
        Some(path) => Ok(read_key_file(&path)?),
        None => Err(Failure::new("there is no key to sign with").hint(
            "name one: --key FILE; to make one: ghostd account new NAME --home DIR (and have it funded)",
        )),
    }
}

pub(super) fn run(globals: &Globals, args: &AccountArgs, out: &Out) -> Result<ExitCode, Failure> {
    match &args.command {
        AccountCommand::New { name, out: file } => {
            let path = match (file, name) {
                (Some(file), _) => file.clone(),
                (None, Some(name)) => {
                    let dir = Home::open(globals.home_root())?.accounts_dir();
                    std::fs::create_dir_all(&dir)?;
                    dir.join(format!("{name}.key"))
                }
                (None, None) => return Err(Failure::usage("a NAME or --out FILE is needed")),
            };
            let key = fresh_key()?;
            write_key_file(&path, &key)?;
            let value = json!({
                "address": key.address().to_string(),
                "public_key": key.public().to_string(),
                "key_file": path,
            });
            out.answer(&value, key.address())
        }
        AccountCommand::Address { key } => {
            let home = Home::open(globals.home_root()).ok();
            let key = signing_key(key.as_ref(), home.as_ref())?;
            let address = key.address();
            let value = json!({ "address": address.to_string(), "public_key": key.public().to_string() });
            out.answer(&value, address)
        }
        AccountCommand::List => {
            let home = Home::open(globals.home_root())?;
            let mut rows = Vec::new();
            let mut text = String::new();
            let mut files: Vec<PathBuf> = match std::fs::read_dir(home.accounts_dir()) {
                Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            files.retain(|path| path.extension().is_some_and(|extension| extension == "key"));
            files.sort();
            for path in files {
                let address = read_key_file(&path)?.address();
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                text += &format!("{address}  {name}\n");
                rows.push(json!({ "name": name, "address": address.to_string(), "key_file": path }));
            }
            out.answer(
                &json!({ "accounts": rows }),
                if text.is_empty() { "no accounts\n".into() } else { text },
            )
        }
    }
}

pub(super) async fn state(globals: &Globals, args: &StateArgs, out: &Out) -> Result<ExitCode, Failure> {
    let (answer, code) = ask(globals, async |node| {
        let answer = node.client.account(args.address).await?;
        let code = match answer.engine {
            0 => None,
            _ => node.client.code(args.address, None).await?,
        };
        Ok((answer, code))
    })
    .await?;
    let balance = balance(&answer)?;
    let mut value: Value = json!({
        "address": args.address.to_string(),
        // Base units do not fit the numbers of JSON.
        "balance": balance.to_string(),
        "nonce": answer.nonce,
        "next_nonce": answer.next_nonce,
        "at": block_ref_json(answer.at.as_ref()),
    });
    let mut text = format!(
        "account     {}\nbalance     {balance} base units\nnonce       {} ({} with those that wait)\nat block    {}",
        args.address,
        answer.nonce,
        answer.next_nonce,
        block_ref_text(answer.at.as_ref())
    );
    value["engine"] = json!(code.as_ref().map(|code| code.engine.to_string()));
    value["code_hash"] = json!(code.as_ref().map(|code| hex::encode(code.code_hash)));
    value["code"] = json!(code.as_ref().map(|code| hex::encode(&code.code)));
    if let Some(code) = &code {
        text += &format!(
            "\ncontract    {}, {}, hash {}\ncode        {}",
            code.engine,
            bytes_for_people(code.code.len() as u64),
            hex::encode(code.code_hash),
            hex::encode(&code.code)
        );
    }
    out.answer(&value, text)
}

/// The balance in an answer: 16 bytes, big-endian.
pub fn balance(answer: &message::AccountAnswer) -> Result<u128, Failure> {
    let bytes = <[u8; 16]>::try_from(answer.balance.as_ref()).map_err(|_| {
        Failure::new(format!("the node sent a balance of {} bytes instead of 16", answer.balance.len()))
            .hint("ask another node")
    })?;
    Ok(u128::from_be_bytes(bytes))
}
