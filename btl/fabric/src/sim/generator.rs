//! The seeded generator: everything that is left to chance in a world comes from here, in the order in which it is asked for.
//!
//! splitmix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; the constants are those
//! of Sebastiano Vigna's public-domain version. One word of state, and every seed is as good as another.

use super::Span;

/// How many parts a whole has, for chances.
const WHOLE: u64 = 1_000_000;

#[derive(Debug, Clone)]
pub(super) struct Generator(u64);

impl Generator {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0. The high half of a product: the bias is below `bound` in 2^64.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// True so many times in a million. What cannot happen costs no number, so that a fault that is off changes nothing else.
    pub(super) const fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(WHOLE) < per_million as u64
    }

    /// A number of the span. A span of one number costs none.
    pub(super) const fn within(&mut self, span: Span) -> u64 {
        if span.max <= span.min {
            return span.min;
        }
        match (span.max - span.min).checked_add(1) {
            Some(count) => span.min + self.below(count),
            None => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_algorithm() {
        let mut generator = Generator::new(1_234_567);
        let wanted = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(wanted, std::array::from_fn(|_| generator.next()));
    }

    #[test]
    fn chances_are_about_what_they_say() {
        let mut generator = Generator::new(5);
        for per_million in [1_000, 100_000, 500_000, 999_000] {
            let hits = (0..100_000).filter(|_| generator.chance(per_million)).count() as f64 / 100_000.0;
            let wanted = f64::from(per_million) / 1e6;
            assert!((hits - wanted).abs() < 0.01, "{hits} instead of {wanted}");
        }
        assert!((0..1000).all(|_| generator.chance(1_000_000)));
    }

    #[test]
    fn what_is_certain_costs_no_number() {
        let mut generator = Generator::new(9);
        let untouched = generator.clone().next();
        assert!(!generator.chance(0));
        assert_eq!(generator.within(Span { min: 7, max: 7 }), 7);
        assert_eq!(generator.within(Span::ZERO), 0);
        assert_eq!(generator.next(), untouched);
    }

    proptest! {
        /// Everything of a span comes, both ends too, and nothing else.
        #[test]
        fn spans_are_inclusive(seed: u64, min in 0_u64..100, width in 0_u64..10) {
            let (mut generator, span) = (Generator::new(seed), Span { min, max: min + width });
            let mut seen = vec![false; width as usize + 1];
            for _ in 0..400 {
                let number = generator.within(span);
                prop_assert!((span.min..=span.max).contains(&number));
                seen[(number - min) as usize] = true;
            }
            prop_assert!(seen.iter().all(|seen| *seen), "{seen:?}");
        }
    }
}
