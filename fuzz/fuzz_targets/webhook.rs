//! Webhooks. The first line says what is in `Authorization`:
//!
//! - nothing: a token that holds;
//! - a JSON object: a token with these claims that is signed with the right secret; `#` in it stands for the body's hash;
//! - anything else: the header as it is, which is never let in.
//!
//! The rest is the body.

#![no_main]

use std::sync::LazyLock;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{
    HeaderValue, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use libfuzzer_sys::fuzz_target;
use livekit_spool::{ingest::Secret, record::Stream};
use livekit_spool_fuzz::Port;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const KEY: &str = "APIkey";
const SECRET: &str = "a secret that nobody guesses so soon";

static PORT: LazyLock<Port> = LazyLock::new(|| Port::new([(KEY.to_owned(), Secret::new(SECRET))].into()));

fuzz_target!(|input: &[u8]| {
    let split = input.iter().position(|&byte| byte == b'\n');
    let Some((line, body)) = split.map(|at| (&input[..at], &input[at + 1..])) else { return };
    let hash = BASE64_STANDARD.encode(Sha256::digest(body));
    let good = format!(r##"{{"iss": "{KEY}", "exp": 4102444800, "sha256": "{hash}"}}"##);
    let claims = match std::str::from_utf8(line) {
        Ok("") => Some(good),
        Ok(claims) => Some(claims.replace('#', &hash)),
        Err(_) => None,
    };
    let claims = claims.and_then(|claims| serde_json::from_str::<Value>(&claims).ok()).filter(Value::is_object);
    let header = match &claims {
        Some(claims) => HeaderValue::from_str(&token(claims)).expect("a header"),
        None => match HeaderValue::from_bytes(line) {
            Ok(header) => header,
            Err(_) => return,
        },
    };
    let request = Request::post("/webhook")
        .header(CONTENT_TYPE, "application/webhook+json")
        .header(AUTHORIZATION, header)
        .body(Bytes::copy_from_slice(body))
        .expect("a request");

    let (status, batch) = PORT.ask(request.clone());
    match &claims {
        None => assert_eq!(status, StatusCode::UNAUTHORIZED, "an unsigned token was let in"),
        Some(_) if line.is_empty() => assert_ne!(status, StatusCode::UNAUTHORIZED, "a token that holds is refused"),
        Some(claims) if status != StatusCode::UNAUTHORIZED => {
            assert_eq!(claims["sha256"].as_str(), Some(&*hash), "a body was accepted that was not signed");
            assert_eq!(claims["iss"].as_str(), Some(KEY));
        }
        Some(_) => {}
    }
    assert_eq!(batch.is_some(), status.is_success());
    let Some(batch) = batch else { return };
    assert_eq!((batch.stream, batch.count()), (Stream::Events, 1));
    PORT.check_documents(&batch);
    // Sent again, it is known.
    let (status, answer) = PORT.ask_again(request);
    assert!(status.is_success(), "{answer:?}");
});

/// A token with these claims, signed with the right secret (HS256), by other code than that which checks it.
fn token(claims: &Value) -> String {
    let encode = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "HS256", "typ": "JWT"})), encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("keys of any length are accepted");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}
