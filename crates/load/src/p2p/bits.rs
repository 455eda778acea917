//! Which of a sender's messages: one bit each.

#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Sets the bit; true if it was not set.
    pub(super) fn set(&mut self, n: u64) -> bool {
        let (word, bit) = place(n);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    pub(super) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many are set here and there.
    pub(super) fn count_with(&self, other: &Self) -> u64 {
        self.words.iter().zip(&other.words).map(|(a, b)| u64::from((a & b).count_ones())).sum()
    }

    /// How many are set here and not there.
    pub(super) fn count_without(&self, other: &Self) -> u64 {
        self.count() - self.count_with(other)
    }
}

fn place(n: u64) -> (usize, u64) {
    ((n / 64) as usize, 1 << (n % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_compared() {
        let (mut a, mut b) = (Bits::default(), Bits::default());
        assert!(a.set(0) && a.set(64) && a.set(1_000) && !a.set(64));
        assert!(b.set(64));
        assert_eq!((a.count(), a.count_with(&b), a.count_without(&b), b.count_without(&a)), (3, 1, 2, 0));
    }
}
