//! The bytes that checked messages consist of.

/// The byte at one index of the pattern with one seed: neighbours, and neighbouring seeds, differ.
fn byte(seed: u32, index: usize) -> u8 {
    let mixed = (index as u32 ^ seed.rotate_left(16)).wrapping_add(seed).wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as u8
}

/// Fills with a pattern.
pub(super) fn fill(bytes: &mut [u8], seed: u32) {
    bytes.iter_mut().enumerate().for_each(|(index, place)| *place = byte(seed, index));
}

/// Something in the first place of which every pattern with this seed has something else.
pub(super) fn scrub(seed: u32) -> u8 {
    !byte(seed, 0)
}

/// The first byte that is not as the pattern has it, in words.
pub(super) fn first_difference(bytes: &[u8], seed: u32) -> Option<String> {
    let index = (0..bytes.len()).find(|&index| bytes[index] != byte(seed, index))?;
    Some(format!("byte {index} is {:#04x} instead of {:#04x}", bytes[index], byte(seed, index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_and_named() {
        let mut bytes = vec![0; 5000];
        fill(&mut bytes, 7);
        assert_eq!(first_difference(&bytes, 7), None);
        let right = bytes[4321];
        bytes[4321] ^= 0x10;
        let said = first_difference(&bytes, 7).unwrap();
        assert_eq!(said, format!("byte 4321 is {:#04x} instead of {right:#04x}", right ^ 0x10));
    }

    #[test]
    fn patterns_differ_by_seed_and_from_what_scrubs_them() {
        for seed in 0..1000 {
            let (mut one, mut next) = ([0; 64], [0; 64]);
            fill(&mut one, seed);
            fill(&mut next, seed + 1);
            assert!((0..64).filter(|&at| one[at] == next[at]).count() < 8, "{seed}");
            assert_ne!(one[0], scrub(seed));
        }
    }
}
