//! Read marks, counts and receipts in memory: the rules are `delivery::marks`.

use delivery::marks::{self, COUNT_BYTES_MAX};
use delivery::record::Whose;
use delivery::{Counted, Marked, Record, Sender};
use protocol::limits::COUNT_ENTRIES_MAX;
use protocol::{Cursor, Text};

use super::{Handle, Shared};
use crate::api::marks::NO_ROOM;
use crate::api::{Answer, CountRequest, FieldsPage, MarkRequest, Marks};
use crate::error::BackplaneError;

impl Shared {
    /// Asks something of one record, if it lives.
    fn of_record<R>(&self, of: &Text, ask: impl FnOnce(Option<&Record>) -> R) -> R {
        let records = self.records.lock();
        ask(records.get(of).filter(|record| record.is_alive((self.clock)() / 1_000)))
    }
}

impl Marks for Handle {
    fn mark<'a>(
        &'a self,
        requests: &'a [MarkRequest],
    ) -> Answer<'a, Result<Vec<Result<Marked, BackplaneError>>, BackplaneError>> {
        let shared = &self.0.shared;
        let one = |request: &MarkRequest| {
            let mut records = shared.records.lock();
            let alive = records.get_mut(&request.of).filter(|record| record.is_alive((shared.clock)() / 1_000));
            let marked = marks::mark(alive, Whose::of(&request.of), &request.field, request.cursor);
            marked.map_err(|_| BackplaneError::NotRun(NO_ROOM.to_owned()))
        };
        Box::pin(async move { Ok(requests.iter().map(one).collect()) })
    }

    fn count<'a>(&'a self, request: &'a CountRequest) -> Answer<'a, Result<Counted, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let now_us = (shared.clock)();
            let ask =
                |record: Option<&Record>| marks::count(record, now_us, request, COUNT_ENTRIES_MAX, COUNT_BYTES_MAX);
            Ok(shared.of_record(&request.of, ask))
        })
    }

    fn sender<'a>(&'a self, of: &'a Text, at: Cursor) -> Answer<'a, Result<Sender, BackplaneError>> {
        Box::pin(async move { Ok(self.0.shared.of_record(of, |record| marks::sender(record, &at))) })
    }

    fn fields<'a>(&'a self, of: &'a Text, from: u64, count: usize) -> Answer<'a, Result<FieldsPage, BackplaneError>> {
        Box::pin(async move { Ok(self.0.shared.of_record(of, |record| marks::fields(record, from, count))) })
    }
}
