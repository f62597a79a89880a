//! Places for values, and doubly linked lists through them. A place is used again when it is free, the last one freed first,
//! and no place is ever given back: what was enough once allocates nothing from then on.
//!
//! Every value gets a stamp, counted up from 1: it says which of two values is older, and it tells a value from all others
//! that had its place before. 64 bits do not wrap.

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// The neighbours in one list; of a free place, `next` of its first link is the next free one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    previous: u32,
    next: u32,
}

impl Link {
    const ALONE: Self = Self { previous: NONE, next: NONE };

    /// True if the list's own ends lie elsewhere.
    pub(super) const fn is_inside(self) -> bool {
        self.previous != NONE && self.next != NONE
    }
}

/// The ends of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    /// The oldest, or [`NONE`].
    pub(super) const fn head(self) -> u32 {
        self.head
    }

    pub(super) const fn is_empty(self) -> bool {
        self.head == NONE
    }

    /// Follows when a place with these neighbours has left the list.
    pub(super) const fn close_up(&mut self, left: Link) {
        if left.previous == NONE {
            self.head = left.next;
        }
        if left.next == NONE {
            self.tail = left.previous;
        }
    }
}

#[derive(Debug, Clone)]
struct Place<T, const LISTS: usize> {
    stamp: u64,
    links: [Link; LISTS],
    value: Option<T>,
}

/// Values that are each in up to `LISTS` lists.
#[derive(Debug, Clone)]
pub(super) struct Slab<T, const LISTS: usize> {
    places: Vec<Place<T, LISTS>>,
    /// The first free place.
    free: u32,
    len: usize,
    last_stamp: u64,
}

impl<T, const LISTS: usize> Slab<T, LISTS> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: NONE, len: 0, last_stamp: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn capacity(&self) -> usize {
        self.places.capacity()
    }

    /// Gives a value a place; it is in no list yet.
    #[inline]
    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.last_stamp += 1;
        self.len += 1;
        let place = Place { stamp: self.last_stamp, links: [Link::ALONE; LISTS], value: Some(value) };
        if self.free == NONE {
            return self.push(place);
        }
        let index = self.free;
        let free = &mut self.places[index as usize];
        self.free = free.links[0].next;
        *free = place;
        index
    }

    #[cold]
    fn push(&mut self, place: Place<T, LISTS>) -> u32 {
        let index = u32::try_from(self.places.len()).ok().filter(|&index| index != NONE);
        self.places.push(place);
        index.expect("memory ends before four billion places")
    }

    /// Frees a place, which must be in no list any more.
    pub(super) fn remove(&mut self, index: u32) -> T {
        let place = &mut self.places[index as usize];
        let value = place.value.take().expect("only places in use are removed");
        place.links[0].next = self.free;
        self.free = index;
        self.len -= 1;
        value
    }

    pub(super) fn get(&self, index: u32) -> &T {
        self.places[index as usize].value.as_ref().expect("lists hold places in use only")
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        self.places[index as usize].value.as_mut().expect("lists hold places in use only")
    }

    pub(super) fn stamp(&self, index: u32) -> u64 {
        self.places[index as usize].stamp
    }

    /// Whether the value that got this stamp is still at this place.
    pub(super) fn holds(&self, index: u32, stamp: u64) -> bool {
        self.places.get(index as usize).is_some_and(|place| place.stamp == stamp && place.value.is_some())
    }

    /// All values, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.places).filter_map(|(index, place)| Some((index, place.value.as_ref()?)))
    }

    /// The next younger one in a list, or [`NONE`].
    pub(super) fn next(&self, list: usize, index: u32) -> u32 {
        self.places[index as usize].links[list].next
    }

    /// Puts a place at the end of a list.
    pub(super) fn append(&mut self, queue: &mut Queue, list: usize, index: u32) {
        self.places[index as usize].links[list] = Link { previous: queue.tail, next: NONE };
        if queue.tail == NONE {
            queue.head = index;
        } else {
            self.places[queue.tail as usize].links[list].next = index;
        }
        queue.tail = index;
    }

    /// Takes the first place out of a list that has more.
    #[inline]
    pub(super) fn pop_but_last(&mut self, queue: &mut Queue, list: usize) -> Option<u32> {
        let index = queue.head;
        let next = self.places[index as usize].links[list].next;
        if next == NONE {
            return None;
        }
        self.places[next as usize].links[list].previous = NONE;
        queue.head = next;
        Some(index)
    }

    /// Joins the neighbours of a place in a list; the list's ends are the caller's, by [`Queue::close_up`].
    #[must_use]
    pub(super) fn unlink(&mut self, list: usize, index: u32) -> Link {
        let link = self.places[index as usize].links[list];
        if link.previous != NONE {
            self.places[link.previous as usize].links[list].next = link.next;
        }
        if link.next != NONE {
            self.places[link.next as usize].links[list].previous = link.previous;
        }
        link
    }
}
