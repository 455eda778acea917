//! What to do when a connection has ended. The rule is docs/protocol.md, "Liveness and leaving".
//!
//! Only the client's own close, `bye` and the close code decide, never an `error`. 4000-4499 stop, except 4002, which
//! comes back with a new token. Everything else, known, unknown or silent, comes back: also 1000, because hosts close
//! suspended sockets with it.

use protocol::CloseCode;

/// What an ended connection asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do not come back unchanged.
    Stop { code: u16 },
    /// Come back with the cursors. `new_token`: and with another token than the last one.
    Again { new_token: bool },
}

/// Judges the end of a connection that the client did not close itself. The code of a `bye` counts more than that of the
/// close, which does not always reach an application.
pub fn judge(bye_code: Option<u16>, close_code: Option<u16>) -> Verdict {
    match bye_code.or(close_code) {
        Some(code) if code == CloseCode::TokenExpired.number() => Verdict::Again { new_token: true },
        Some(code @ 4000..=4499) => Verdict::Stop { code },
        _ => Verdict::Again { new_token: false },
    }
}

/// The code that says that the frame being sent was the cause: 1002, 1003, 1007 or 1009. Such a frame is not sent again.
pub fn blames_frame(bye_code: Option<u16>, close_code: Option<u16>) -> Option<u16> {
    let blaming = [CloseCode::Protocol, CloseCode::Unsupported, CloseCode::NotUtf8, CloseCode::TooBig];
    bye_code.or(close_code).filter(|code| blaming.iter().any(|close| close.number() == *code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Verdict = Verdict::Again { new_token: false };

    #[test]
    fn only_4000_to_4499_stop_and_4002_wants_a_token() {
        assert_eq!(judge(None, Some(4002)), Verdict::Again { new_token: true });
        for code in [4000, 4001, 4003, 4004, 4005, 4006, 4100, 4499] {
            assert_eq!(judge(None, Some(code)), Verdict::Stop { code });
        }
        for code in [1000, 1001, 1002, 1003, 1006, 1007, 1009, 1011, 1012, 3000, 3999, 4500, 4505, 4999] {
            assert_eq!(judge(None, Some(code)), AGAIN, "{code}");
        }
        assert_eq!(judge(None, None), AGAIN, "a silent end");
    }

    #[test]
    fn bye_counts_more_than_the_close_code() {
        assert_eq!(judge(Some(4001), Some(1000)), Verdict::Stop { code: 4001 });
        assert_eq!(judge(Some(4500), Some(1000)), AGAIN);
        assert_eq!(judge(Some(4500), Some(4001)), AGAIN);
    }

    #[test]
    fn four_codes_blame_the_frame_being_sent() {
        for code in [1002, 1003, 1007, 1009] {
            assert_eq!(blames_frame(None, Some(code)), Some(code));
        }
        for code in [1000, 1001, 1011, 4000, 4500] {
            assert_eq!(blames_frame(Some(code), Some(1009)), None);
        }
    }
}
