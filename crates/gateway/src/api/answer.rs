//! Answers of the server API: `sent` and `error`, the frames that clients get, as JSON.

use connection::SendFault;
use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER};
use protocol::ErrorCode;
use protocol::client::{ErrorFrame, ServerFrame};
use protocol::node::Encoding;
use serde_json::{Value, json};

use crate::door::SendAnswer;
use crate::listener::respond::{self, Answer, JSON};

/// One message's answer: its id, where it could be read, and what became of it.
pub(super) struct Outcome {
    pub id: Option<String>,
    pub result: Result<SendAnswer, SendFault>,
}

impl Outcome {
    /// The frame that a client would get.
    fn frame(&self) -> Vec<u8> {
        let frame = match &self.result {
            Ok(sent) => ServerFrame::Sent {
                id: self.id.as_deref().unwrap_or_default(),
                reference: sent.reference.clone(),
                at: sent.at,
                online: sent.online,
            },
            Err(fault) => ServerFrame::Error(ErrorFrame {
                id: self.id.as_deref(),
                code: fault.code,
                message: &fault.message,
                retry_ms: fault.retry_ms,
                is_final: fault.is_final,
            }),
        };
        let mut out = Vec::with_capacity(128);
        frame.encode(Encoding::Json, &mut out);
        out
    }

    /// The answer to a call with this one message: a fault is the call's own.
    pub(super) fn into_answer(self) -> Answer {
        match &self.result {
            Ok(_) => respond::answer(StatusCode::OK, JSON, self.frame()),
            Err(fault) => fault_answer(fault.code.http_status(), fault),
        }
    }

    /// The answer to a call with an array, one by one in its order. The call itself went well.
    pub(super) fn list(outcomes: &[Self]) -> Answer {
        let mut out = vec![b'['];
        for (index, outcome) in outcomes.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&outcome.frame());
        }
        out.push(b']');
        respond::answer(StatusCode::OK, JSON, out)
    }
}

/// A call that was not executed.
pub(super) fn error(code: ErrorCode, message: &str) -> Answer {
    error_with_status(code.http_status(), code, message)
}

/// Where HTTP has a status of its own for what the protocol calls something else.
pub(super) fn error_with_status(status: u16, code: ErrorCode, message: &str) -> Answer {
    let fault = SendFault { code, message: message.to_owned(), retry_ms: None, is_final: false };
    fault_answer(status, &fault)
}

/// A fault of the call's own.
pub(super) fn refused(fault: &SendFault) -> Answer {
    fault_answer(fault.code.http_status(), fault)
}

/// What was asked for.
pub(super) fn done(value: &Value) -> Answer {
    respond::answer(StatusCode::OK, JSON, value.to_string())
}

fn fault_answer(status: u16, fault: &SendFault) -> Answer {
    let mut error = json!({"code": fault.code.as_str(), "message": fault.message});
    if let Some(ms) = fault.retry_ms {
        error["retry_ms"] = ms.into();
    }
    if fault.is_final {
        error["final"] = true.into();
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let answer = respond::answer(status, JSON, json!({"error": error}).to_string());
    match fault.retry_ms {
        None => answer,
        // Whole seconds, and never too early.
        Some(ms) => respond::with(answer, RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000))),
    }
}
