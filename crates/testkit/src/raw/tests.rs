//! The driver against servers that say what a test tells them.

use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_secs(10);
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

/// A server that upgrades one connection, says `words`, reads for as long as `reads` and closes; gives back what it
/// read after the head.
async fn saying(words: Vec<u8>, reads: Duration) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(&words).await.unwrap();
        let mut read = Vec::new();
        let _ = timeout(reads, stream.read_to_end(&mut read)).await;
        read
    });
    (address, server)
}

fn server_frames(frames: &[Frame]) -> Vec<u8> {
    let frames = frames.iter().flat_map(|frame| frame.clone().unmasked().to_bytes());
    UPGRADED.iter().copied().chain(frames).collect()
}

#[test]
fn a_frame_is_framed_as_the_rfc_says_unless_it_is_told_to_lie() {
    assert_eq!(Frame::text("Hi").to_bytes(), b"\x81\x82\x01\x02\x03\x04Ik");
    assert_eq!(Frame::ping("").unmasked().to_bytes(), b"\x89\x00");
    assert_eq!(Frame::close(1005).unmasked().to_bytes(), b"\x88\x02\x03\xed");
    assert_eq!(Frame::binary([0; 126]).to_bytes()[..4], *b"\x82\xfe\x00\x7e");
    assert_eq!(Frame::binary(vec![0; 65_536]).to_bytes()[..10], *b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00");
    assert_eq!(Frame::continuation("x").unfinished().with_rsv(4).to_bytes()[..2], *b"\x40\x81");
    assert_eq!(Frame::binary("").claiming(u64::MAX).to_bytes()[1..10], [0xff; 9]);
}

#[tokio::test]
async fn a_close_is_told_with_the_bye_directly_before_it() {
    let bye = json!({"type": "bye", "code": 4000});
    let packed = rmp_serde::to_vec_named(&bye).unwrap();
    let batch = Frame::text("[{\"n\":1},{\"n\":2}]");
    let words = [batch.clone(), Frame::binary(packed.clone()), Frame::close(4000), Frame::text("late")];
    let (address, _server) = saying(server_frames(&words), SOON).await;
    let report = Raw::open(address, "/", &[]).await.unwrap().outcome(SOON).await;
    assert_eq!(report.outcome, Outcome::Close { code: 4000, bye: Some(bye.clone()) });
    assert_eq!(report.frames, [json!({"n": 1}), json!({"n": 2}), bye.clone()]);
    assert_eq!(report.bytes_received, server_frames(&words).len() as u64);

    let words = [Frame::binary(packed), batch, Frame::new(opcode::CLOSE, "")];
    let (address, _server) = saying(server_frames(&words), SOON).await;
    let report = Raw::open(address, "/", &[]).await.unwrap().outcome(SOON).await;
    assert_eq!(report.outcome, Outcome::Close { code: 1005, bye: None }, "a bye is the last word");
}

#[tokio::test]
async fn an_end_without_a_close_a_refusal_and_silence_are_told_apart() {
    let (address, _server) = saying(UPGRADED.to_vec(), Duration::ZERO).await;
    assert_eq!(Raw::open(address, "/", &[]).await.unwrap().outcome(SOON).await.outcome, Outcome::Eof);

    let (address, _server) = saying(b"HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n".to_vec(), SOON).await;
    let (mut raw, head) = Raw::upgrade(address, "/", &[("Origin", "null")]).await.unwrap();
    assert_eq!((head.status, head.header("x")), (403, Some("y")));
    assert_eq!(raw.outcome(SOON).await.outcome, Outcome::Http(403));

    let (address, _server) = saying(UPGRADED.to_vec(), SOON).await;
    let report = Raw::open(address, "/", &[]).await.unwrap().outcome(Duration::from_millis(50)).await;
    assert_eq!(report.outcome, Outcome::StillOpen);
    assert!(report.elapsed >= Duration::from_millis(50));
}

/// The server says why and goes away without reading: a client that only wrote would see a broken pipe.
#[tokio::test]
async fn what_a_server_says_in_the_middle_of_a_flood_is_heard() {
    let words = server_frames(&[Frame::new(opcode::PONG, "p"), Frame::close(1009)]);
    let (address, _server) = saying(words, Duration::ZERO).await;
    let mut raw = Raw::open(address, "/", &[]).await.unwrap();
    let report = raw.play(&[Burst::times(vec![0; 65_536], 1_000)], SOON).await;
    assert_eq!(report.outcome, Outcome::Close { code: 1009, bye: None });
    assert_eq!((report.pong_count, report.last_pong), (1, Some(b"p".to_vec())));
    assert!(report.bytes_sent < 65_536 * 1_000);
    let after = raw.after_close(&[Burst::times(vec![0; 65_536], 1_000)], SOON).await;
    assert!(after.outcome.is_cut(), "{:?}", after.outcome);
}

#[tokio::test]
async fn a_script_is_written_to_its_end_and_frames_can_be_waited_for() {
    let words = server_frames(&[Frame::text("{\"type\":\"wel").unfinished(), Frame::continuation("come\"}")]);
    let (address, server) = saying(words, SOON).await;
    let mut raw = Raw::open(address, "/", &[]).await.unwrap();
    let welcome = raw.wait_for(SOON, |frame| frame["type"] == "welcome").await;
    assert_eq!(welcome, Some(json!({"type": "welcome"})));
    let script = [Burst::times("ab", 3).every(Duration::from_millis(1)), Frame::ping("x").unmasked().into()];
    let report = raw.play_out(&script, SOON).await;
    assert_eq!(report.outcome, Outcome::StillOpen);
    assert!(raw.wait_for(Duration::from_millis(20), |frame| frame["type"] == "bye").await.is_none());
    drop(raw);
    assert_eq!(server.await.unwrap(), b"ababab\x89\x01x");
}
