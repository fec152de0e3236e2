//! The `admin:` section. `admin` uses the whole configuration: it cannot hold a part of it.

use std::{net::SocketAddr, path::PathBuf};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    secret::Secret,
    setting::{Address, Is, Kind, OrNone, Text, kind},
};

/// The status page, API and metrics.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// an address and port; none: only the Unix socket in the data directory, which the CLI uses
    #[serde_as(as = "Is<OrNone<Address>>")]
    pub listen: Option<SocketAddr>,
    /// (reload) required for actions; beyond loopback for reading too
    #[serde_as(as = "Option<Is<AdminToken>>")]
    #[schemars(example = "${SPOOL_ADMIN_TOKEN}")]
    pub token: Option<Secret>,
    /// (reload) a file that holds the token
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/run/secrets/spool_admin_token")]
    pub token_file: Option<PathBuf>,
    /// (reload) host names that browsers may use, besides localhost and IP addresses (against DNS rebinding)
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["spool.example.com"])]
    pub hosts: Vec<String>,
    /// (reload) true: /metrics needs no token beyond loopback
    pub public_metrics: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 7892)));
        Self { listen, token: None, token_file: None, hosts: Vec::new(), public_metrics: false }
    }
}

/// A token that can be guessed over the network within hours opens no admin port.
const MIN_ADMIN_TOKEN_LENGTH: usize = 8;

/// The token of the admin port.
struct AdminToken;

fn long_enough(token: Secret) -> Result<Secret, String> {
    let is_short = token.expose().chars().count() < MIN_ADMIN_TOKEN_LENGTH;
    if is_short { Err("is too easily guessed".to_owned()) } else { Ok(token) }
}

fn quoted_token(text: &str) -> Result<Secret, String> {
    Text::read_quoted(text).and_then(long_enough)
}

kind!([] AdminToken => Secret, @SECRET,
    format!("{MIN_ADMIN_TOKEN_LENGTH} characters or more (`openssl rand -hex 16` makes such a token)"),
    |text| Text::read(text).and_then(long_enough),
    |token| token,
    json_schema!({ "type": ["string", "number"], "minLength": MIN_ADMIN_TOKEN_LENGTH }),
    quoted_token);
