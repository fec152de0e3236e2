//! Who can send, from where, and how much.

use livekit_spool::{config::Listen, ingest::AuthOptions};

use crate::{assert_error, parse, with_environment};

#[test]
fn limits_that_the_memory_can_never_hold_are_refused_with_both_values_and_the_way_out() {
    assert_error(
        "ingest:\n  memory: {max_bytes: 8MiB}\n  grpc: {max_message_bytes: 7MiB}\n  http: {max_body_bytes: 6MiB}\n",
        &[
            "c.yaml:3:10: ingest.grpc.max_message_bytes: 7MiB never fits: of ingest.memory.max_bytes (8MiB) one sender gets \
             6MiB at most; lower max_message_bytes, or raise ingest.memory.max_bytes to 10MiB or more",
        ],
    );
    assert_error(
        "ingest: {memory: {max_bytes: 16MiB}}",
        &["ingest.http.max_body_bytes: 16MiB (the default) never fits", "to 22MiB or more"],
    );
    assert!(parse("ingest: {memory: {max_bytes: 22MiB}}").is_ok(), "what the message says is enough");
    assert!(parse("ingest: {memory: {max_bytes: 6MiB}, http: {listen: none}}").is_ok(), "nothing comes in there");
}

#[test]
fn an_address_that_others_reach_needs_authentication() {
    for listen in ["0.0.0.0:7890", "':7890'", "'[::]:7890'", "192.0.2.1:7890"] {
        for server in ["grpc", "http"] {
            let exposed = format!("ingest: {{{server}: {{listen: {listen}}}}}");
            let path = format!("ingest.{server}.listen: ");
            assert_error(&exposed, &[&path, "can be reached from other machines", "or set `ingest.auth` to livekit"]);
        }
    }
    for ours in ["127.0.0.1:7890", "'[::1]:7890'", "'[::ffff:127.0.0.1]:7890'", "localhost:7890", "'unix:/run/x.sock'"]
    {
        assert!(parse(&format!("ingest: {{grpc: {{listen: {ours}}}}}")).is_ok(), "{ours}");
    }
    let authenticated = "ingest: {grpc: {listen: ':7890'}, auth: {mode: tokens, tokens: [sixteen-and-more]}}";
    assert!(parse(authenticated).is_ok());
}

#[test]
fn who_may_send_is_a_word_or_a_section() {
    assert!(matches!(parse("ingest: {auth: none}").unwrap().ingest.auth.options(), AuthOptions::None));
    assert!(matches!(
        parse("ingest: {auth: livekit}\nkeys: {a: b}").unwrap().ingest.auth.options(),
        AuthOptions::Livekit
    ));
    let from_environment = with_environment(
        Some("ingest: {auth: {mode: livekit, keys: '${LIVEKIT_KEYS}'}}"),
        &[("LIVEKIT_KEYS", "APIa: hunter2\nAPIb: x\n")],
    );
    assert_eq!(from_environment.unwrap().ingest.auth.keys.keys().collect::<Vec<_>>(), ["APIa", "APIb"]);
    let tokens = parse("ingest: {auth: {mode: tokens, tokens: [sixteen-and-more]}}").unwrap().ingest.auth.options();
    assert!(matches!(tokens, AuthOptions::Tokens(tokens) if tokens[0].matches("sixteen-and-more")));
    assert_error("ingest: {auth: tokens}", &["ingest.auth.tokens: missing"]);
    assert_error(
        "ingest: {auth: {mode: tokens, tokens: [fifteen-letters]}}",
        &["ingest.auth.tokens: one is shorter than 16 characters"],
    );
    assert_error("ingest: {auth: livekit}", &["needs API keys"]);
    assert_error("ingest: {auth: mtls}", &["mtls needs ingest.tls with a client_ca"]);
    assert_error("ingest: {tls: {key: x}}", &["ingest.tls.certificate: missing"]);
    assert!(matches!(
        parse("ingest: {grpc: {listen: 'unix:/run/x.sock'}}").unwrap().ingest.grpc.listen,
        Some(Listen::Unix(_))
    ));
    assert!(parse("ingest: {http: {listen: none}}").unwrap().ingest.http.listen.is_none());
}
