//! The ids of the newest messages of one stream, to drop what comes again after a reset.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Messages remembered a stream: what the protocol promises that a client recognises.
pub const WINDOW_MESSAGES: usize = 1_024;

/// The newest [`WINDOW_MESSAGES`] different messages of one stream, known by (`from`, `id`). Grows as they come.
#[derive(Clone, Debug, Default)]
pub struct IdWindow {
    known: HashSet<Arc<str>>,
    oldest_first: VecDeque<Arc<str>>,
}

impl IdWindow {
    /// Takes one message; true if it is not among the newest ones already.
    pub fn insert(&mut self, from: &str, id: &str) -> bool {
        let name = name(from, id);
        if self.known.contains(&*name) {
            return false;
        }
        if self.oldest_first.len() == WINDOW_MESSAGES
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        let name: Arc<str> = name.into();
        self.oldest_first.push_back(Arc::clone(&name));
        self.known.insert(name);
        true
    }

    pub fn contains(&self, from: &str, id: &str) -> bool {
        self.known.contains(&*name(from, id))
    }
}

/// Neither addresses nor ids have control characters, so a zero between them makes the pair one text.
fn name(from: &str, id: &str) -> String {
    format!("{from}\0{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_by_sender_and_id() {
        let mut window = IdWindow::default();
        assert!(window.insert("user:a", "1"));
        assert!(!window.insert("user:a", "1"));
        assert!(window.insert("user:b", "1"));
        assert!(window.contains("user:b", "1") && !window.contains("user:b", "2"));
    }

    #[test]
    fn the_newest_1024_are_known_and_the_one_before_is_not() {
        let mut window = IdWindow::default();
        for n in 0..=WINDOW_MESSAGES {
            window.insert("user:a", &n.to_string());
        }
        assert!(!window.contains("user:a", "0"));
        assert!(window.contains("user:a", "1") && window.contains("user:a", "1024"));
        assert_eq!(window.known.len(), WINDOW_MESSAGES);
    }
}
