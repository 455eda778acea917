//! The table of partition tags: `{p17}` and its kin, chosen so that their slots spread evenly over a Redis Cluster.
//!
//! The table is a function of the number of partitions alone, so every node and every version has the same. With plain
//! numbers as tags some masters would get nearly twice as many partitions as others.

/// Slots of a Redis Cluster.
pub const SLOTS: u32 = 16_384;

/// The tags of `count` partitions: the tag of partition `i` has its slot in the middle half of the `i`-th of `count`
/// equal ranges, and is the first `p`-and-number that has.
pub fn tags(count: u16) -> Vec<String> {
    let mut found: Vec<Option<String>> = vec![None; usize::from(count)];
    let mut left = usize::from(count);
    let mut number = 0u32;
    while left > 0 {
        let tag = format!("p{number}");
        let slot = u64::from(slot(tag.as_bytes()));
        number += 1;
        // In units of a quarter range: the middle half is quarters 1 and 2.
        let quarter = slot * 4 * u64::from(count) / u64::from(SLOTS);
        let place = &mut found[(quarter / 4) as usize];
        if matches!(quarter % 4, 1 | 2) && place.is_none() {
            *place = Some(tag);
            left -= 1;
        }
    }
    found.into_iter().flatten().collect()
}

/// The slot of a hash tag's content.
pub fn slot(tag: &[u8]) -> u16 {
    crc16(tag) % SLOTS as u16
}

/// CRC16 as Redis Cluster has it (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From the Redis Cluster specification, and `CLUSTER KEYSLOT` of Redis 7.0.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"user1000"), 3_443);
    }

    /// Goal: masters get the same share. Method: count the tags in each master's range, for 1 to 12 masters.
    #[test]
    fn tags_spread_evenly_over_any_number_of_masters() {
        for count in [1u16, 7, 64, 128, 1024] {
            let tags = tags(count);
            assert_eq!(tags.len(), usize::from(count));
            for masters in 1..=12u32.min(u32::from(count)) {
                let mut share = vec![0u32; masters as usize];
                for tag in &tags {
                    share[(u32::from(slot(tag.as_bytes())) * masters / SLOTS) as usize] += 1;
                }
                let (least, most) = (share.iter().min().unwrap(), share.iter().max().unwrap());
                assert!(most - least <= 2, "{count} partitions on {masters} masters: {share:?}");
            }
        }
    }
}
