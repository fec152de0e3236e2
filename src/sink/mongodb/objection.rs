//! What the driver has against a connection string, without asking a server or a name server: it is read and a client is made
//! of it, as at the first contact. The answer names the option that is wrong, and holds no secret.

use mongodb::{
    Client,
    error::{Error, ErrorKind},
    options::{ClientOptions, ConnectionString},
};

use crate::sink::url::without_secrets;

/// Options whose value is a secret or holds one: what the driver says of it may repeat it.
const SECRET_OPTIONS: [&str; 3] = ["tlscertificatekeyfilepassword", "proxypassword", "authmechanismproperties"];

/// Options that only a `mongodb+srv` string may have.
const SRV_OPTIONS: [&str; 2] = ["srvmaxhosts", "srvservicename"];

/// What keeps the driver from working with this string; `None`: nothing.
pub(super) fn to(uri: &str) -> Option<String> {
    let error = refusal(uri)?;
    let shown = without_secrets(uri);
    // Of a string with a slip in it nothing can be told that is surely no password.
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
    // One that is wrong beside others is the one without which they do; of several, the first that is wrong by itself.
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
    // Which file cannot be read is what helps.
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
        runtime.block_on(async { Client::with_options(ClientOptions::parse(uri).await?).map(drop) })
    });
    made.join().ok()?.err()
}

/// A `mongodb+srv` string as one whose hosts need not be looked up.
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
