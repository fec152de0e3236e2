//! The driver's objection to a connection string, without contacting a server or a name server. The string is parsed and a
//! client is created, as at the first contact. The answer names the wrong option, and contains no secret.

use mongodb::{
    Client,
    error::{Error, ErrorKind},
    options::{ClientOptions, ConnectionString},
};

use crate::sink::url::without_secrets;

/// Options whose value is or contains a secret: the driver's error may repeat it.
const SECRET_OPTIONS: [&str; 3] = ["tlscertificatekeyfilepassword", "proxypassword", "authmechanismproperties"];

/// Options that only a `mongodb+srv` string can have.
const SRV_OPTIONS: [&str; 2] = ["srvmaxhosts", "srvservicename"];

/// Why the driver cannot work with this string; `None`: it can.
pub(super) fn to(uri: &str) -> Option<String> {
    let error = refusal(uri)?;
    let shown = without_secrets(uri);
    // In a malformed string any part may be a password, so none is shown.
    let Some((base, query)) = uri.split_once('?').filter(|_| !shown.contains("***")) else {
        return Some(match message(&error) {
            Some(message) if !uri.contains('@') && !shown.contains("***") => message,
            _ => "the driver cannot read it (reserved characters in user and password must be percent-encoded)"
                .to_owned(),
        });
    };
    if refusal(base).is_some() {
        return to(base);
    }
    let options: Vec<&str> = query.split('&').collect();
    let without = |left_out: usize| {
        let kept: Vec<&str> =
            options.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, option)| *option).collect();
        if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) }
    };
    // If options conflict, the wrong one is the one without which the rest works; of several, the first that is wrong by
    // itself.
    let wrong = (0..options.len())
        .find(|&i| refusal(&without(i)).is_none())
        .or_else(|| options.iter().position(|option| refusal(&format!("{base}?{option}")).is_some()));
    let Some(option) = wrong.map(|i| options[i]) else {
        return Some("the driver refuses its options together".to_owned());
    };
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let is_secret = SECRET_OPTIONS.contains(&name.to_lowercase().as_str());
    let reason = message(&error).filter(|_| !is_secret && options.len() == 1 || is_about(&error, name));
    let reason = reason
        .or_else(|| message(&refusal(&format!("{base}?{option}"))?))
        .filter(|_| !is_secret)
        .unwrap_or_else(|| "the driver refuses it".to_owned());
    // The name of the unreadable file is what helps.
    let file = if name.to_lowercase().ends_with("file") { format!(" ({value})") } else { String::new() };
    Some(format!("option {name}{file}: {reason}"))
}

fn is_about(error: &Error, name: &str) -> bool {
    message(error).is_some_and(|message| message.to_lowercase().contains(&name.to_lowercase()))
}

fn message(error: &Error) -> Option<String> {
    match error.kind.as_ref() {
        ErrorKind::InvalidArgument { message, .. } | ErrorKind::InvalidTlsConfig { message, .. } => {
            Some(message.clone())
        }
        ErrorKind::Io(error) => Some(error.to_string()),
        _ => None,
    }
}

/// The driver's own answer.
fn refusal(uri: &str) -> Option<Error> {
    if let Err(error) = ConnectionString::parse(uri) {
        return Some(error);
    }
    let uri = without_lookup(uri);
    // The driver spawns tasks, which never run here: this runtime ends before it has polled one.
    let made = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Client::with_options(ClientOptions::parse(uri.as_str()).await?).map(drop) })
    });
    made.join().ok()?.err()
}

/// A `mongodb+srv` string in a form whose hosts need no lookup.
fn without_lookup(uri: &str) -> String {
    let Some(rest) = uri.strip_prefix("mongodb+srv://") else { return uri.to_owned() };
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_lowercase();
    let mut options: Vec<&str> =
        query.split('&').filter(|option| !option.is_empty() && !SRV_OPTIONS.contains(&name(option).as_str())).collect();
    if !options.iter().any(|option| ["tls", "ssl"].contains(&name(option).as_str())) {
        options.push("tls=true");
    }
    let path = if base.contains('/') { "" } else { "/" };
    format!("mongodb://{base}{path}?{}", options.join("&"))
}
