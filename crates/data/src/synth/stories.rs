use tensor::Rng;

use super::words::{between, pick, pick_distinct};
use super::{Item, Register};

const NAMES: [&str; 16] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mary", "Noah",
    "Olga", "Peter",
];
const PLACES: [&str; 10] =
    ["attic", "cellar", "garden", "garage", "hall", "kitchen", "library", "office", "school", "shop"];
const THINGS: [&str; 14] = [
    "ball", "book", "brush", "coin", "cup", "flute", "hammer", "key", "knife", "letter", "map", "ring", "scarf",
    "spoon",
];
const COLOURS: [&str; 7] = ["black", "blue", "brown", "green", "red", "white", "yellow"];
const CONTAINERS: [&str; 6] = ["bag", "basket", "box", "chest", "drawer", "jar"];
const TIMES: [&str; 5] = ["One morning", "One evening", "On Monday", "After lunch", "In winter"];

/// A story about two people and two things, then a question that the story answers.
///
/// The story is what happened in a small world, so its facts agree: who is in a place can only take what is there and
/// give to whom is there, and what a person holds moves along.
pub(super) fn draw(rng: &mut Rng) -> Item {
    let names = pick_distinct(rng, &NAMES, 2);
    let things = pick_distinct(rng, &THINGS, 2);
    let colours = pick_distinct(rng, &COLOURS, 2);
    let place = pick(rng, &PLACES);
    let mut sentences = vec![format!("{} {} and {} were in the {place}.", pick(rng, &TIMES), names[0], names[1])];
    let mut world = World {
        names: [names[0], names[1]],
        place_of: [place, place],
        things: [things[0], things[1]],
        colours: [colours[0], colours[1]],
        kept: [Kept::By(0), Kept::By(1)],
        places: vec![place],
        containers: Vec::new(),
    };
    for i in 0..2 {
        sentences.push(format!("{} had a {} {}.", names[i], colours[i], things[i]));
    }
    for _ in 0..between(rng, 2, 4) {
        let events = world.possible_events();
        let event = events[rng.below(events.len() as u64) as usize];
        sentences.push(world.happen(event, rng));
    }
    let (question, answer, candidates) = world.ask(rng);
    sentences.push(question);
    Item { register: Register::Stories, question: sentences.join(" "), answer, chance: 1.0 / candidates as f64 }
}

struct World {
    names: [&'static str; 2],
    place_of: [&'static str; 2],
    things: [&'static str; 2],
    colours: [&'static str; 2],
    kept: [Kept; 2],
    /// What the story has named so far: the answers a guess would choose from.
    places: Vec<&'static str>,
    containers: Vec<&'static str>,
}

/// Where a thing is.
#[derive(Clone, Copy)]
enum Kept {
    /// With a person.
    By(usize),
    /// In a container, which stays in its place.
    In { container: &'static str, place: &'static str },
}

/// What can happen: numbers are people and things.
#[derive(Clone, Copy)]
enum Event {
    Move(usize),
    Put { person: usize, thing: usize },
    Take { person: usize, thing: usize },
    Give { from: usize, to: usize, thing: usize },
}

impl World {
    fn possible_events(&self) -> Vec<Event> {
        let mut events = vec![Event::Move(0), Event::Move(1)];
        let together = self.place_of[0] == self.place_of[1];
        for (thing, kept) in self.kept.iter().enumerate() {
            match *kept {
                Kept::By(person) => {
                    events.push(Event::Put { person, thing });
                    if together {
                        events.push(Event::Give { from: person, to: 1 - person, thing });
                    }
                }
                Kept::In { place, .. } => {
                    let near = (0..2).filter(|&person| self.place_of[person] == place);
                    events.extend(near.map(|person| Event::Take { person, thing }));
                }
            }
        }
        events
    }

    /// Lets the event happen and tells it.
    fn happen(&mut self, event: Event, rng: &mut Rng) -> String {
        match event {
            Event::Move(person) => {
                let here = self.place_of[person];
                let elsewhere: Vec<&str> = PLACES.into_iter().filter(|&place| place != here).collect();
                let place = pick(rng, &elsewhere);
                self.place_of[person] = place;
                name_once(&mut self.places, place);
                format!("{} {} to the {place}.", self.names[person], pick(rng, &["went", "walked", "ran"]))
            }
            Event::Put { person, thing } => {
                let container = pick(rng, &CONTAINERS);
                self.kept[thing] = Kept::In { container, place: self.place_of[person] };
                name_once(&mut self.containers, container);
                format!("{} put the {} in the {container}.", self.names[person], self.things[thing])
            }
            Event::Take { person, thing } => {
                self.kept[thing] = Kept::By(person);
                format!("{} took the {}.", self.names[person], self.things[thing])
            }
            Event::Give { from, to, thing } => {
                self.kept[thing] = Kept::By(to);
                format!("{} gave the {} to {}.", self.names[from], self.things[thing], self.names[to])
            }
        }
    }

    /// A question, its answer, and among how many answers of this form the story's words let one choose.
    fn ask(&self, rng: &mut Rng) -> (String, String, usize) {
        let chosen = rng.below(2) as usize;
        let (name, thing) = (self.names[chosen], self.things[chosen]);
        match rng.below(4) {
            0 => (format!("Where is {name}?"), format!("in the {}", self.place_of[chosen]), self.places.len()),
            1 => (format!("What colour is the {thing}?"), self.colours[chosen].to_owned(), self.colours.len()),
            _ => match self.kept[chosen] {
                Kept::By(person) => (format!("Who has the {thing}?"), self.names[person].to_owned(), 2),
                Kept::In { container, .. } => {
                    (format!("Where is the {thing}?"), format!("in the {container}"), self.containers.len())
                }
            },
        }
    }
}

fn name_once(named: &mut Vec<&'static str>, word: &'static str) {
    if !named.contains(&word) {
        named.push(word);
    }
}
