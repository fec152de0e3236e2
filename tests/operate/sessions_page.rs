//! The page's view of sessions in headless Chromium.

use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, ParticipantInfo, Room};
use livekit_spool::record::now_millis;
use pbjson_types::Timestamp;

use super::{
    cdp::Page,
    send,
    sessions_api::{delivered, listed, send_rooms, with_files},
    support,
};
use support::process::Setup;

const LISTED: &str = "document.querySelectorAll('#sessions tr[data-room]').length";
const SHOWN: &str = "document.querySelectorAll('[data-session] .chart .row').length > 0";
const FITS: &str = "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll') && \
                    !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 200)).join()";

/// The texts of the chart that are over another one or outside of it.
const UNREADABLE: &str = "[...document.querySelectorAll('svg.chart')].flatMap((chart) => { \
    const texts = [...chart.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]); \
    const all = chart.getBoundingClientRect(); \
    const cut = texts.filter(([, at]) => at.left < all.left - 1 || at.right > all.right + 1 || at.bottom > all.bottom + 1); \
    const over = texts.filter(([, a], i) => texts.slice(0, i).some(([, b]) => \
        a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2)); \
    return cut.concat(over).map(([text]) => text); }).join()";

/// Runs what drives the browser next to the async test.
async fn in_browser<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the browser's part")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_leads_to_a_session_and_back_by_the_keyboard() {
    let spool = with_files().start().await;
    send_rooms(&spool).await;
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(1100, 1000);
        page.go(&format!("{url}/#sessions"));
        page.wait_for(&format!("{LISTED} === 7"));
        assert_eq!(page.value("document.getElementById('status').hidden"), true);
        assert_eq!(page.value("document.querySelector('nav [aria-current]').textContent"), "Sessions");
        page.picture("sessions-list");
        let first = "document.querySelector('#sessions tr[data-room] a')";
        page.value(&format!("{first}.focus()"));
        page.press("ArrowDown");
        let sid = page.value("document.activeElement.dataset.key").as_str().expect("a SID").to_owned();
        assert_ne!(page.value(&format!("{first}.dataset.key")), sid.as_str());
        page.press("Enter");
        page.wait_for(SHOWN);
        assert_eq!(page.value("location.hash"), format!("#sessions/{sid}"));
        assert_eq!(page.value("document.querySelectorAll('.chart .row').length"), 3);
        assert_eq!(page.value("document.querySelectorAll('.chart .here').length"), 3);
        page.wait_for("document.querySelectorAll('.chart path.series[data-metric=bitrate]').length === 6");
        assert_eq!(page.value("document.querySelectorAll('.figures tbody tr').length"), 6);
        assert_eq!(page.value(UNREADABLE), "");
        assert_eq!(page.value(FITS), "");
        page.picture("session-light");
        page.value("document.getElementById('theme').click()");
        page.picture("session-dark");
        // A participant's own streams, then the figures of a moment.
        page.value("document.querySelector('.chart .row').focus()");
        page.press("ArrowDown");
        page.press("Enter");
        page.wait_for("document.querySelectorAll('.chart .row')[1].getAttribute('aria-pressed') === 'true'");
        assert_eq!(page.value("document.activeElement === document.querySelectorAll('.chart .row')[1]"), true);
        assert_eq!(page.value("document.querySelectorAll('.chart path.series[data-metric=score]').length"), 6);
        page.press("ArrowRight");
        page.press("ArrowRight");
        page.wait_for("document.querySelector('.figures th').textContent.startsWith('at ')");
        page.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
        assert_eq!(page.value(FITS), "");
        page.picture("session-open");
        page.press("Escape");
        page.wait_for(&format!("{LISTED} === 7 && document.activeElement.dataset.key === '{sid}'"));
        assert_eq!(page.complaints(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_a_session_and_it_fits_a_phone() {
    let spool = with_files().start().await;
    send_rooms(&spool).await;
    let sid = listed(&spool).await[0]["room_sid"].as_str().expect("a SID").to_owned();
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(360, 800);
        page.go(&format!("{url}/#sessions/{sid}"));
        page.wait_for(SHOWN);
        assert_eq!(page.value(FITS), "");
        assert_eq!(page.value(UNREADABLE), "");
        page.picture("session-phone");
        page.value("document.querySelector('a.back').click()");
        page.wait_for(&format!("{LISTED} === 7"));
        assert_eq!(page.value(FITS), "");
        page.picture("sessions-phone");
        // The other view is still there.
        page.value("document.querySelector('nav a').click()");
        page.wait_for("!document.getElementById('status').hidden && document.getElementById('sessions').hidden");
        assert_eq!(page.complaints(), Vec::<String>::new());
    })
    .await;
}

fn happened(kind: AnalyticsEventType, id: &str, room: &str, identity: &str) -> AnalyticsEvent {
    let participant = ParticipantInfo { sid: "PA_x".to_owned(), identity: identity.to_owned(), ..Default::default() };
    AnalyticsEvent {
        id: id.to_owned(),
        r#type: kind.into(),
        timestamp: Some(Timestamp { seconds: now_millis() / 1000 - 20, nanos: 0 }),
        room_id: "RM_x".to_owned(),
        room: Some(Room { sid: "RM_x".to_owned(), name: room.to_owned(), ..Default::default() }),
        participant_id: participant.sid.clone(),
        participant: Some(participant),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_stay_text_and_do_not_break_the_page() {
    let markup = "<img src=x onerror=\"window.hacked = 1\"><script>window.hacked = 1</script>";
    let long = "x".repeat(1 << 20);
    let turned = "\u{202E}txet\u{2067} desrever \u{0}\u{1b}[2J";
    for (name, words) in [(markup, "onerror="), (long.as_str(), "xxxx"), (turned, "txet")] {
        let spool = with_files().start().await;
        let events = vec![
            happened(AnalyticsEventType::RoomCreated, "AE_1", name, name),
            happened(AnalyticsEventType::ParticipantJoined, "AE_2", name, name),
        ];
        send(&spool, events).await;
        delivered(&spool).await;
        let (url, words) = (spool.admin(), words.to_owned());
        in_browser(move || {
            let mut page = Page::open(360, 800);
            page.go(&format!("{url}/#sessions"));
            page.wait_for(&format!("{LISTED} === 1"));
            page.wait_for(&format!("document.querySelector('[data-room] a').textContent.includes('{words}')"));
            assert_eq!(page.value(FITS), "");
            page.value("document.querySelector('[data-room] a').click()");
            page.wait_for(SHOWN);
            page.wait_for(&format!("document.querySelector('[data-field=room]').textContent.includes('{words}')"));
            page.value("document.querySelector('.chart .row').dispatchEvent(new Event('click'))");
            page.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
            assert_eq!(page.value(FITS), "");
            page.picture(&format!("hostile-{words}"));
            assert_eq!(page.value("document.querySelectorAll('main img, main script').length"), 0);
            assert_eq!(page.value("window.hacked === undefined"), true);
            assert!(page.value("document.body.innerText.length").as_u64() < Some(20_000));
            assert_eq!(page.complaints(), Vec::<String>::new());
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn participants_whose_identities_were_removed_are_told_apart() {
    let spool = with_files().start().await;
    let mut other = happened(AnalyticsEventType::ParticipantJoined, "AE_3", "room", "");
    other.participant_id = "PA_y".to_owned();
    other.participant.as_mut().expect("a participant").sid = "PA_y".to_owned();
    let events = vec![
        happened(AnalyticsEventType::RoomCreated, "AE_1", "room", ""),
        happened(AnalyticsEventType::ParticipantJoined, "AE_2", "room", ""),
        other,
    ];
    send(&spool, events).await;
    delivered(&spool).await;
    let url = spool.admin();
    in_browser(move || {
        let mut page = Page::open(900, 800);
        page.go(&format!("{url}/#sessions/RM_x"));
        page.wait_for("document.querySelectorAll('.chart .row').length === 2");
        page.value("document.querySelectorAll('.chart .row')[1].dispatchEvent(new Event('click'))");
        let pressed =
            "[...document.querySelectorAll('.chart .row')].map((row) => row.getAttribute('aria-pressed')).join()";
        assert_eq!(page.value(pressed), "false,true");
        assert_eq!(page.value("document.querySelector('[data-key=shown]').value"), "1");
        assert_eq!(page.complaints(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_with_what_to_do() {
    let empty = with_files().start().await;
    let unreadable = Setup::new().sink("name: hook, type: http, url: \"http://127.0.0.1:9/\"").start().await;
    let urls = (empty.admin(), unreadable.admin());
    in_browser(move || {
        let mut page = Page::open(700, 600);
        let shown = "document.querySelector('#sessions [data-field=empty]')?.textContent || ''";
        page.go(&format!("{}/#sessions", urls.0));
        page.wait_for(&format!("({shown}).includes('No sessions in this time.')"));
        page.wait_for(&format!("({shown}).includes('sink files')"));
        page.value("location.hash = '#sessions/RM_unknown'");
        page.wait_for(&format!("({shown}).includes('no records of room RM_unknown')"));
        page.go(&format!("{}/#sessions", urls.1));
        page.wait_for(&format!("({shown}).includes('no sink can be read')"));
        page.wait_for(&format!("({shown}).includes('MongoDB, PostgreSQL or files')"));
    })
    .await;
}
