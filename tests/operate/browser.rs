//! The status page in headless Chromium.

use serde_json::Value;

use super::{
    TOKEN,
    cdp::Page,
    event, nowhere,
    resp::{Answer, RespServer},
    send, support, with_token,
};
use support::{
    process::{Setup, Spool},
    proxy::{Mode, Proxy},
    wire::WireServer,
};

const LOADED: &str = "document.querySelectorAll('[data-sink]').length > 0";

/// What of the plots' texts is over another one or outside of its plot.
const UNREADABLE: &str = "[...document.querySelectorAll('svg.plot')].flatMap((plot) => { \
    const texts = [...plot.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]); \
    const all = plot.getBoundingClientRect(); \
    const cut = texts.filter(([, at]) => at.left < all.left - 1 || at.right > all.right + 1 || at.bottom > all.bottom + 1); \
    const over = texts.filter(([, a], i) => texts.slice(0, i).some(([, b]) => \
        a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2)); \
    return cut.concat(over).map(([text]) => text); }).join()";

/// Runs what drives the browser next to the async test.
async fn in_browser<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the browser's part")
}

async fn status(spool: &Spool) -> Value {
    let text = reqwest::get(format!("{}/api/v1/status", spool.admin())).await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A text as the page shows it: `1,234` → 1234.
fn number(text: &Value) -> u64 {
    text.as_str().expect("a text").replace(',', "").parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_loads_without_an_error_and_shows_the_apis_figures() {
    let spool = nowhere("mongo").files("files").start().await;
    send(&spool, (0..1_234).map(|i| event(&format!("AE_{i}"), "r")).collect()).await;
    support::eventually("the file sink has all", || async { spool.records("files", "events") == 0 }).await;
    let status = status(&spool).await;
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(1100, 1000);
        page.go(&url);
        page.wait_for(LOADED);
        page.wait_for("document.querySelector('[data-sink=files] [data-field=delivered]').textContent === '1,234'");
        page.wait_for("document.querySelector('[data-sink=mongo] [data-field=state]').textContent === 'unavailable'");
        page.wait_for(
            "document.querySelector('[data-sink=mongo] [data-field=advice]').textContent.includes('delivery resumes')",
        );
        page.wait_for("document.querySelector('[data-sink=files] [data-field=advice]').textContent === ''");
        for sink in ["mongo", "files"] {
            let api = status["sinks"].as_array().unwrap().iter().find(|entry| entry["name"] == sink).unwrap();
            let mut shown = |field: &str| {
                page.value(&format!("document.querySelector('[data-sink={sink}] [data-field={field}]').textContent"))
            };
            assert_eq!(number(&shown("records")), api["records"].as_u64().unwrap(), "{sink}");
            assert_eq!(number(&shown("dead-letters")), api["dead_letters"].as_u64().unwrap(), "{sink}");
            for stream in ["events", "stats", "node_rooms"] {
                let cell = format!("[data-sink={sink}] [data-stream={stream}] [data-field=stream-records]");
                let text = page.value(&format!("document.querySelector('{cell}').textContent"));
                assert_eq!(number(&text), api["streams"][stream]["records"].as_u64().unwrap(), "{sink} {stream}");
            }
        }
        assert_eq!(number(&page.value("document.querySelector('[data-field=total-accepted]').textContent")), 1_234);
        // Nothing but the page itself and its API was asked for.
        let foreign =
            "performance.getEntriesByType('resource').filter((e) => !e.name.startsWith(location.origin)).length";
        assert_eq!(page.value(foreign), 0);
        page.wait_for("document.querySelectorAll('path.line')[0].getAttribute('d') !== null");
        page.picture("light");
        page.value("document.getElementById('theme').click()");
        page.picture("dark");
        assert_eq!(page.complaints(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_a_phone() {
    let spool = nowhere("a-sink-with-a-rather-long-name-that-has-to-be-wrapped").start().await;
    send(&spool, vec![event("AE_1", "r")]).await;
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(360, 800);
        page.go(&url);
        page.wait_for(LOADED);
        page.wait_for("[...document.querySelectorAll('main *')].every((e) => e.closest('.scroll') || e.getBoundingClientRect().right <= 361)");
        page.wait_for("document.querySelectorAll('svg.plot text').length > 6");
        assert_eq!(page.value(UNREADABLE), "");
        page.picture("phone");
        assert_eq!(page.complaints(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shows_within_two_seconds_and_so_does_its_end() {
    let server = WireServer::acknowledging().await;
    let proxy = Proxy::start(&server.address()).await;
    let uri = format!("mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=300", proxy.address());
    let spool = Setup::new().mongo("mongo", &uri, "openvidu").start().await;
    send(&spool, vec![event("AE_1", "r")]).await;
    support::eventually("it is delivered", || async { server.inserted() == 1 }).await;
    let url = spool.admin();
    let mut page = in_browser(move || {
        let mut page = Page::open(1000, 800);
        page.go(&url);
        page.wait_for(LOADED);
        // Notes when the page shows each state: `unavailable` after what the worker knew, by the same clock.
        page.value(
            "window.seen = {}; new MutationObserver(() => { const state = document.querySelector('[data-field=state]').textContent; \
             seen[state] = Date.now(); }).observe(document.querySelector('[data-field=state]'), {childList: true, characterData: true, subtree: true}); 0",
        );
        page
    })
    .await;
    for (mode, states, id) in
        [(Mode::Refuse, &["unavailable"][..], "AE_2"), (Mode::Pass, &["idle", "delivering"], "AE_3")]
    {
        page = in_browser(move || {
            page.value("seen = {}; 0");
            page
        })
        .await;
        proxy.set(mode).await;
        send(&spool, vec![event(id, "r")]).await;
        support::eventually("the state has changed", || async {
            let status = status(&spool).await;
            states.iter().any(|state| status["sinks"][0]["state"] == *state)
        })
        .await;
        let since = status(&spool).await["sinks"][0]["since"].as_i64().unwrap();
        let wanted = states.iter().map(|state| format!("seen['{state}']")).collect::<Vec<_>>().join(" || ");
        page = in_browser(move || {
            page.wait_for(&format!("!!({wanted})"));
            let shown = page.value(&wanted).as_i64().expect("a time");
            assert!(shown - since <= 2_000, "shown {} ms after it was known", shown - since);
            page
        })
        .await;
    }
    support::eventually("all is delivered", || async { server.inserted() == 3 }).await;
    in_browser(move || assert_eq!(page.complaints(), Vec::<String>::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_opened_after_an_outage_shows_rates_backlog_and_the_states_as_marks_and_as_text() {
    const ERROR: &str = "NOAUTH <img src=x onerror=\"window.hacked = 1\"> & co";
    let server = WireServer::acknowledging().await;
    let proxy = Proxy::start(&server.address()).await;
    let refusing = RespServer::start(|command| match &*command[0] {
        "JSON.SET" | "EXPIRE" => Answer::Error(ERROR.to_owned()),
        _ => Answer::Healthy,
    })
    .await;
    let uri = format!("mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=300", proxy.address());
    let redis = format!("name: redis, type: redis, url: \"{}\"", refusing.url());
    let spool = Setup::new().mongo("mongo", &uri, "openvidu").sink(&redis).start().await;
    let state_is = async |states: &[&str]| {
        support::eventually("the state has changed", || async {
            let backlog = spool.backlog();
            states.iter().any(|state| Spool::sink_of(&backlog, "mongo")["state"] == *state)
        })
        .await;
    };
    send(&spool, vec![event("AE_1", "r")]).await;
    support::eventually("it is delivered", || async { server.inserted() == 1 }).await;
    proxy.set(Mode::Refuse).await;
    send(&spool, (0..1_000).map(|i| event(&format!("AE_more_{i}"), "r")).collect()).await;
    state_is(&["unavailable"]).await;
    // A point of the history has them.
    support::eventually("the backlog is in the history", || async {
        let history = reqwest::get(format!("{}/api/v1/history", spool.admin())).await.unwrap().text().await.unwrap();
        let history: Value = serde_json::from_str(&history).unwrap();
        let points = history["sinks"]["mongo"]["points"].as_array().expect("points").clone();
        points.iter().any(|point| point["records"] == 1_000 && point["rate_in"].as_f64() > Some(0.0))
    })
    .await;
    proxy.set(Mode::Pass).await;
    state_is(&["idle", "delivering"]).await;
    support::eventually("all is delivered", || async { server.inserted() == 1_001 }).await;
    for (width, name) in [(1100, "outage"), (360, "outage-phone")] {
        let url = spool.admin();
        in_browser(move || {
            let mut page = Page::open(width, 900);
            page.go(&url);
            page.wait_for(LOADED);
            let plot = |rest: &str| format!("document.querySelector('[data-sink=mongo] svg.plot {rest}')");
            for line in ["path.line.in", "path.line.out", "path.line.backlog", "path.area"] {
                page.wait_for(&format!("({}?.getAttribute('d') || '').length > 10", plot(line)));
            }
            // What a mark says is text, and its form tells it from the others.
            let bad = page.value(&format!("{}.textContent", plot(".mark.bad title")));
            assert!(bad.as_str().is_some_and(|text| text.contains(" unavailable: mongodb://")), "{bad}");
            let forms = "new Set([...document.querySelectorAll('.legend svg.bad path, .legend svg.good path, .legend \
                         svg.other path')].map((sign) => sign.getAttribute('d'))).size";
            assert_eq!(page.value(forms), 3);
            let label = page.value("document.querySelector('[data-sink=mongo] svg.plot').getAttribute('aria-label')");
            let label = label.as_str().expect("a label");
            for part in ["mongo, the last 5 minutes: backlog 0 records, at most 1,000; in ", " state changes."] {
                assert!(label.contains(part), "{label}");
            }
            assert_eq!(page.value(UNREADABLE), "");
            // The same as text, by the keyboard.
            page.value("document.querySelector('[data-sink=mongo] summary').focus()");
            page.press("Enter");
            page.wait_for("document.querySelector('[data-sink=mongo] details').open");
            page.wait_for("document.querySelectorAll('[data-sink=mongo] details li').length > 2");
            page.wait_for("document.querySelectorAll('[data-sink=mongo] details tbody tr').length > 1");
            page.wait_for(
                "document.querySelector('[data-sink=redis] svg.plot .mark.bad title')?.textContent.includes('<img') === true",
            );
            page.picture(name);
            page.value("document.getElementById('theme').click()");
            page.picture(&format!("{name}-dark"));
            assert_eq!(page.value("document.querySelectorAll('main img').length"), 0);
            assert_eq!(page.value("window.hacked === undefined"), true);
            let fits = "[...document.querySelectorAll('main *')].every((e) => e.closest('.scroll') || \
                        e.getBoundingClientRect().right <= innerWidth + 1)";
            assert_eq!(page.value(fits), true);
            assert_eq!(page.complaints(), Vec::<String>::new());
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malicious_room_name_stays_text() {
    const NAME: &str = "<img src=x onerror=\"window.hacked = 1\"><script>window.hacked = 1</script>";
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    send(&spool, vec![event("AE_1", NAME)]).await;
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(1000, 800);
        page.go(&url);
        page.wait_for(LOADED);
        page.value("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Show records').click()");
        page.wait_for("document.querySelector('[data-field=shown]').textContent.includes('onerror=')");
        page.picture("malicious");
        assert_eq!(page.value("document.querySelectorAll('main img, main script').length"), 0);
        assert_eq!(page.value("window.hacked === undefined"), true);
        assert_eq!(page.complaints(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_work_with_the_token_and_say_so_without() {
    let server = WireServer::acknowledging().await;
    let mut spool = with_token(Setup::new().mongo("mongo", &server.uri(), "openvidu"));
    spool.start().await;
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(1000, 800);
        page.go(&url);
        page.wait_for(LOADED);
        let pause = "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Pause').click()";
        page.value(pause);
        page.wait_for("document.getElementById('notice').textContent.includes('needs the admin token')");
        page.value(&format!(
            "document.getElementById('token').click(); document.getElementById('secret').value = '{TOKEN}'; \
             document.querySelector('button[value=ok]').click()"
        ));
        page.wait_for("sessionStorage.getItem('token') !== null && sessionStorage.getItem('token') !== ''");
        page.value(pause);
        page.wait_for("document.querySelector('[data-field=state]').textContent === 'paused'");
        page.value("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Resume').click()");
        page.wait_for("document.querySelector('[data-field=state]').textContent === 'idle'");
    })
    .await;
}
