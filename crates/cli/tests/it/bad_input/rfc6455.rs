//! Breaches of RFC 6455 and frames of the wrong kind: the cases of a raw driver that answer at once.

use anyhow::{Context, Result};
use testkit::raw::opcode;
use testkit::{Burst, Frame, Outcome};

use super::{closed_with, said_goodbye, unexpected};
use crate::gateway::{Gateway, SOON, check};

/// A connection that has its `welcome` breaks the protocol and is closed with 1002.
async fn breach(gateway: &'static Gateway, frames: &[Frame]) -> Result<()> {
    for format in ["json", "msgpack"] {
        let mut raw = gateway.raw(format).await?;
        raw.send(frames).await?;
        closed_with(&raw.outcome(SOON).await, &[1002]).with_context(|| format!("on {format}: {frames:?}"))?;
    }
    Ok(())
}

#[test]
fn bigping_a_ping_of_126_bytes_is_closed_with_1002() {
    check(async |gateway| breach(gateway, &[Frame::ping([b'p'; 126])]).await);
}

#[test]
fn rsv_a_reserved_bit_is_closed_with_1002() {
    check(async |gateway| {
        for bits in [1, 2, 4] {
            breach(gateway, &[Frame::binary("x").with_rsv(bits)]).await?;
        }
        Ok(())
    });
}

#[test]
fn op3_a_reserved_opcode_is_closed_with_1002() {
    check(async |gateway| {
        for opcode in [3, 7, 11, 15] {
            breach(gateway, &[Frame::new(opcode, "x")]).await?;
        }
        Ok(())
    });
}

#[test]
fn unmasked_a_frame_without_a_mask_is_closed_with_1002() {
    check(async |gateway| {
        breach(gateway, &[Frame::text("{}").unmasked()]).await?;
        breach(gateway, &[Frame::binary("\u{0}").unmasked()]).await
    });
}

#[test]
fn close1_a_close_frame_of_one_byte_is_closed_with_1002() {
    check(async |gateway| breach(gateway, &[Frame::new(opcode::CLOSE, [3])]).await);
}

#[test]
fn close1005_a_close_code_that_nobody_may_send_is_closed_with_1002() {
    check(async |gateway| {
        for code in [1005, 1006, 999, 0] {
            breach(gateway, &[Frame::close(code)]).await?;
        }
        Ok(())
    });
}

#[test]
fn fragments_out_of_order_are_closed_with_1002() {
    check(async |gateway| {
        breach(gateway, &[Frame::continuation("x")]).await?;
        breach(gateway, &[Frame::ping("x").unfinished()]).await?;
        breach(gateway, &[Frame::text("{").unfinished(), Frame::text("}")]).await?;
        breach(gateway, &[Frame::binary("x").unfinished(), Frame::binary("x")]).await
    });
}

#[test]
fn text_a_text_frame_on_messagepack_gets_a_bye_and_1003() {
    check(async |gateway| {
        let mut raw = gateway.raw("msgpack").await?;
        raw.send(&[Frame::text("hello")]).await?;
        said_goodbye(&raw.outcome(SOON).await, 1003)
    });
}

#[test]
fn a_binary_frame_on_json_gets_a_bye_and_1003() {
    check(async |gateway| {
        let mut raw = gateway.raw("json").await?;
        raw.send(&[Frame::binary("{\"type\":\"ping\"}")]).await?;
        said_goodbye(&raw.outcome(SOON).await, 1003)
    });
}

#[test]
fn badutf8_a_text_that_is_not_utf8_gets_a_bye_and_1007() {
    check(async |gateway| {
        for payload in [&b"\xff\xfe"[..], b"{\"type\":\"\xed\xa0\x80\"}", b"{\"type\":\"ping\"}\xf0\x9f"] {
            let mut raw = gateway.raw("json").await?;
            raw.send(&[Frame::text(payload)]).await?;
            said_goodbye(&raw.outcome(SOON).await, 1007).with_context(|| format!("{payload:?}"))?;
        }
        Ok(())
    });
}

/// A character may be cut by the border between two fragments; only the whole message has to be UTF-8.
#[test]
fn a_message_in_fragments_with_a_ping_between_them_is_a_message_like_any_other() {
    check(async |gateway| {
        let mut raw = gateway.raw("json").await?;
        let (first, second) = "{\"type\":\"ping\",\"id\":\"é\"}".as_bytes().split_at(22);
        raw.send(&[Frame::text(first).unfinished(), Frame::ping("between"), Frame::continuation(second)]).await?;
        let pong = raw.wait_for(SOON, |frame| frame["type"] == "pong").await.context("no pong")?;
        anyhow::ensure!(pong["id"] == "é", "{pong}");
        let report = raw.outcome(std::time::Duration::from_millis(1)).await;
        anyhow::ensure!(report.last_pong.as_deref() == Some(b"between"), "{report:?}");
        Ok(())
    });
}

#[test]
fn a_close_of_the_client_is_answered_with_its_code_and_the_end() {
    check(async |gateway| {
        for code in [1000, 1001, 4321] {
            let mut raw = gateway.raw("json").await?;
            raw.send(&[Frame::close(code)]).await?;
            closed_with(&raw.outcome(SOON).await, &[code])?;
            let after = raw.after_close(&[], SOON).await;
            if after.outcome != Outcome::Eof {
                return Err(unexpected(&after, "the end of the connection"));
            }
        }
        Ok(())
    });
}

#[test]
fn a_client_that_answers_our_close_sees_the_end_of_the_connection() {
    check(async |gateway| {
        let mut raw = gateway.raw("json").await?;
        raw.send(&[Frame::text("}")]).await?;
        said_goodbye(&raw.outcome(SOON).await, 4000)?;
        let after = raw.after_close(&[Burst::from(Frame::close(4000))], SOON).await;
        if after.outcome != Outcome::Eof {
            return Err(unexpected(&after, "the end of the connection, and no reset"));
        }
        Ok(())
    });
}
