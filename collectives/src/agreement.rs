//! Which processes go on when some have ended: all that live have to give the same answer, whoever ends meanwhile. Pure: what is heard and who is
//! lost goes in, what is to be said comes out.
//!
//! In each round a process tells all others what it knows, its *view*, and waits until each has told it, or is lost. A round in which all
//! views were the same one, and nobody was lost meanwhile, may have the answer; who has it says so instead of a view, and who hears that takes it over, says so,
//! too, and is done. This is consensus by flooding with early stopping (Dolev, Reischuk and Strong, "Early stopping in Byzantine agreement", JACM 1990; in rounds
//! that no clock but the loss of peers ends, as in Cachin, Guerraoui and Rodrigues, "Introduction to reliable and secure distributed programming", 2011,
//! section 5.2). Two rounds without a death, two or three more for one that ends meanwhile; p (p - 1) messages in each round.
//!
//! *Lost and alive.* A connection may break between two that live: then each says that it has lost the other one, and the answer cannot have both. Who goes on
//! follows from the view alone ([`View::survivors`]). In a round with one view for all, those who go on drop the others and tell them; it is the answer only when
//! the view says that *each of them* has lost all the others. Without this, one of two that have lost each other could have an answer that the other one never
//! hears of.
//!
//! *Why all give the same answer.* Say P has it in round r. Then all who go on had the view V in round r, and hear from nobody else any more. Q, one of them, waits
//! for P in round r + 1, and gets the answer, unless it loses P. Then it says so in its view of round r + 1, or later, and can be of one mind only with those who
//! have heard that. Who has taken over P's answer has not, says the answer instead, and again Q gets it or loses that one. So only those have another answer
//! who have lost all that have the first one.
//!
//! Who was lost by all has heard from them that they go on without it, or nothing: then they may as well have ended, and it goes on alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// In the first number of a loss.
const DESERTION_BIT: u32 = 1 << 31;

/// A process has lost another one, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Loss {
    by: u32,
    lost: u32,
    /// The other one lives, and has said that it goes on without this one.
    is_desertion: bool,
}

impl Loss {
    /// Who holds whom for lost. Nobody else can say it of a deserter, who talks only to those whom it has not given up.
    const fn accusation(self) -> (u32, u32) {
        if self.is_desertion { (self.lost, self.by) } else { (self.by, self.lost) }
    }
}

/// What is known of who lives. It only ever grows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Ranks that have lived when this began.
    heard: BTreeSet<u32>,
    /// Who has lost whom, among these.
    losses: BTreeSet<Loss>,
    /// The lowest number that the new communicator can have.
    next_id: u32,
}

impl View {
    fn merge(&mut self, other: &Self) {
        self.heard.extend(&other.heard);
        self.losses.extend(&other.losses);
        self.next_id = self.next_id.max(other.next_id);
    }

    /// Those who go on together: of all that have lived, without whom most have lost, until nobody has lost any other. One that has ended has lost nobody, or not
    /// as many as have lost it; of two that live and have lost each other the lower rank stays.
    fn survivors(&self) -> Vec<u32> {
        let mut left = self.heard.clone();
        let mut accusations: BTreeSet<_> = self.losses.iter().map(|loss| loss.accusation()).collect();
        loop {
            let mut accusers: BTreeMap<u32, u32> = BTreeMap::new();
            for (_, lost) in &accusations {
                *accusers.entry(*lost).or_default() += 1;
            }
            let Some((_, worst)) = accusers.into_iter().map(|(rank, count)| (count, rank)).max() else {
                return left.into_iter().collect();
            };
            left.remove(&worst);
            accusations.retain(|(by, lost)| *by != worst && *lost != worst);
        }
    }

    /// Whether each of these has lost all others that have lived.
    fn have_parted(&self, survivors: &[u32]) -> bool {
        let others = self.heard.iter().filter(|rank| !survivors.contains(rank));
        others.flat_map(|lost| survivors.iter().map(move |by| (*by, *lost))).all(|(by, lost)| {
            [false, true].iter().any(|&is_desertion| self.losses.contains(&Loss { by, lost, is_desertion }))
        })
    }
}

/// What a process says to all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// What it knows at the beginning of a round; the first is 1.
    View(u32, View),
    /// The answer.
    Answer(View),
    /// Others go on without the one that hears this.
    Dropped,
    /// Others go on without the one that says this.
    Out,
}

/// What stands for the number of a round in other words.
const ANSWER: u32 = 0;
const DROPPED: u32 = u32::MAX;
const OUT: u32 = u32::MAX - 1;

impl Word {
    /// The bytes of a word in a communicator of `size` processes: numbers of four bytes, little-endian.
    ///
    /// ```text
    ///  0       4         8                             8 + 4 ceil(size / 32)
    ///  | round | next_id | who has lived, bit by bit   | who, whom | who, whom ...
    /// ```
    ///
    /// The answer has round 0; two words have a round that there is not, and nothing behind it. The highest bit of a `who` says that it was deserted.
    pub(crate) fn encode(&self, size: u32) -> Vec<u8> {
        let (round, view) = match self {
            Self::View(round, view) => (*round, view),
            Self::Answer(view) => (ANSWER, view),
            Self::Dropped => return DROPPED.to_le_bytes().to_vec(),
            Self::Out => return OUT.to_le_bytes().to_vec(),
        };
        let mut heard = vec![0_u32; size.div_ceil(32) as usize];
        for rank in &view.heard {
            heard[*rank as usize / 32] |= 1 << (rank % 32);
        }
        let losses = view
            .losses
            .iter()
            .flat_map(|loss| [loss.by | if loss.is_desertion { DESERTION_BIT } else { 0 }, loss.lost]);
        [round, view.next_id].into_iter().chain(heard).chain(losses).flat_map(u32::to_le_bytes).collect()
    }

    /// Reads it; `None` for anything but a word in such a communicator.
    pub(crate) fn decode(bytes: &[u8], size: u32) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<4>() else { return None };
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (round, next_id, rest) = match words[..] {
            [DROPPED] => return Some(Self::Dropped),
            [OUT] => return Some(Self::Out),
            [round, next_id, ref rest @ ..] if round < OUT => (round, next_id, rest),
            _ => return None,
        };
        let (bits, losses) = rest.split_at_checked(size.div_ceil(32) as usize)?;
        let heard: BTreeSet<u32> = (0..bits.len() as u32 * 32)
            .filter(|rank| bits[*rank as usize / 32] >> (rank % 32) & 1 == 1)
            .collect();
        let (pairs, []) = losses.as_chunks::<2>() else { return None };
        let loss_of = |[by, lost]: &[u32; 2]| {
            let is_desertion = by & DESERTION_BIT != 0;
            Loss { by: by & !DESERTION_BIT, lost: *lost, is_desertion }
        };
        let losses: BTreeSet<Loss> = pairs.iter().map(loss_of).collect();
        let is_sound = heard.last().is_none_or(|last| *last < size)
            && losses.iter().all(|loss| heard.contains(&loss.by) && heard.contains(&loss.lost));
        let view = View { heard, losses, next_id };
        is_sound.then_some(if round == ANSWER { Self::Answer(view) } else { Self::View(round, view) })
    }
}

/// One process's part in it.
#[derive(Debug)]
pub(crate) struct Agreement {
    rank: u32,
    size: u32,
    round: u32,
    /// What it has said in this round.
    view: View,
    /// What it will say in the next one.
    next: View,
    /// All whose views have come in this round had the same.
    are_alike: bool,
    /// Whom it waits for in this round.
    awaited: BTreeSet<u32>,
    lost: BTreeSet<u32>,
    /// Those of them that have given this process up, and live.
    deserters: BTreeSet<u32>,
    inbox: BTreeMap<u32, VecDeque<Word>>,
    /// And to whom, if not to all.
    to_say: VecDeque<(Option<u32>, Word)>,
    end: Option<End>,
}

/// How it ends for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It goes on with these.
    Together {
        /// Ranks, itself among them.
        survivors: Vec<u32>,
        /// The number of their communicator.
        id: u32,
    },
    /// Others have lost it, and go on without it.
    Out,
}

impl Agreement {
    /// For one of `size` processes, which knows that `next_id` is free.
    pub(crate) fn new(rank: u32, size: u32, next_id: u32) -> Self {
        let view = View { heard: BTreeSet::from([rank]), losses: BTreeSet::new(), next_id };
        let mut agreement = Self {
            rank,
            size,
            round: 0,
            view: View::default(),
            next: view,
            are_alike: false,
            awaited: BTreeSet::new(),
            lost: BTreeSet::new(),
            deserters: BTreeSet::new(),
            inbox: BTreeMap::new(),
            to_say: VecDeque::new(),
            end: None,
        };
        agreement.begin_round();
        // Alone it is done.
        agreement.go_on();
        agreement
    }

    /// Whom this process can talk to.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = u32> {
        (0..self.size).filter(|rank| *rank != self.rank && !self.lost.contains(rank))
    }

    /// Whom it waits for.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = u32> {
        self.awaited.iter().copied()
    }

    /// What is to be said next, and to whom.
    pub(crate) fn next_word(&mut self) -> Option<(Vec<u32>, Word)> {
        let (to, word) = self.to_say.pop_front()?;
        Some((to.map_or_else(|| self.reachable().collect(), |one| vec![one]), word))
    }

    /// How it has ended, if it has.
    pub(crate) const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// A word has come. What comes of one that is lost does not count any more: this process has said already that it is lost.
    pub(crate) fn hear(&mut self, from: u32, word: Word) {
        if from < self.size && !self.lost.contains(&from) {
            self.inbox.entry(from).or_default().push_back(word);
            self.go_on();
        }
    }

    /// A process is lost. All that it has said has been heard before. `has_deserted`: it has said that it goes on without this one, so it lives, and it is this
    /// one that is lost.
    pub(crate) fn lose(&mut self, rank: u32, has_deserted: bool) {
        if self.lost.insert(rank) {
            self.inbox.remove(&rank);
            self.awaited.remove(&rank);
            if has_deserted {
                self.deserters.insert(rank);
            }
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        while self.end.is_none() {
            self.take_words();
            if self.end.is_some() || !self.awaited.is_empty() {
                return;
            }
            self.end_round();
        }
    }

    fn take_words(&mut self) {
        for from in self.awaited.clone() {
            match self.inbox.get_mut(&from).and_then(VecDeque::pop_front) {
                None => {}
                Some(Word::Answer(view)) => return self.agree(view),
                Some(Word::Dropped) => return self.leave(),
                Some(Word::View(round, view)) if round == self.round => {
                    self.are_alike &= view == self.view;
                    self.next.merge(&view);
                    self.awaited.remove(&from);
                }
                // Or it does not keep to the rounds, and is of no use.
                Some(Word::Out | Word::View(..)) => {
                    self.lost.insert(from);
                    self.inbox.remove(&from);
                    self.awaited.remove(&from);
                }
            }
        }
    }

    /// All have spoken.
    fn end_round(&mut self) {
        self.add_own_losses();
        if self.are_alike && self.next == self.view {
            let survivors = self.view.survivors();
            if !survivors.contains(&self.rank) {
                return self.leave();
            }
            if self.view.have_parted(&survivors) {
                return self.agree(self.view.clone());
            }
            self.drop_all_but(&survivors);
        }
        self.begin_round();
    }

    fn drop_all_but(&mut self, survivors: &[u32]) {
        let others: Vec<u32> =
            self.view.heard.iter().copied().filter(|rank| !survivors.contains(rank)).collect();
        for other in others {
            if self.lost.insert(other) {
                self.inbox.remove(&other);
                self.to_say.push_back((Some(other), Word::Dropped));
            }
        }
        self.add_own_losses();
    }

    fn add_own_losses(&mut self) {
        self.next.heard.extend(&self.deserters);
        for rank in self.lost.intersection(&self.next.heard) {
            let is_desertion = self.deserters.contains(rank);
            self.next.losses.insert(Loss { by: self.rank, lost: *rank, is_desertion });
        }
    }

    fn begin_round(&mut self) {
        self.round += 1;
        self.view = self.next.clone();
        self.are_alike = true;
        self.awaited = self.reachable().collect();
        self.to_say.push_back((None, Word::View(self.round, self.view.clone())));
    }

    fn agree(&mut self, view: View) {
        let (survivors, id) = (view.survivors(), view.next_id);
        if !survivors.contains(&self.rank) {
            return self.leave();
        }
        self.awaited.clear();
        self.to_say.push_back((None, Word::Answer(view)));
        self.end = Some(End::Together { survivors, id });
    }

    fn leave(&mut self) {
        self.awaited.clear();
        self.to_say.push_back((None, Word::Out));
        self.end = Some(End::Out);
    }
}

#[cfg(test)]
#[path = "agreement_tests.rs"]
mod tests;
