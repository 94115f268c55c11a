//! Turns: everyone does the same work once in each run, in an order that turns around.

use std::fmt;

/// What went wrong, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One way to do the work: its name, and one turn of it.
pub struct Way<'a, T> {
    /// In the tables.
    pub name: &'static str,
    turn: Box<dyn FnMut() -> Result<T, Failure> + 'a>,
}

impl<T> fmt::Debug for Way<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a, T> Way<'a, T> {
    /// A way, and how to do one turn.
    pub fn new(name: &'static str, turn: impl FnMut() -> Result<T, Failure> + 'a) -> Self {
        Self { name, turn: Box::new(turn) }
    }
}

/// What one way gave, a figure set for each run.
#[derive(Debug)]
pub struct Measured<T> {
    /// Of the way.
    pub name: &'static str,
    /// In the order of the runs.
    pub turns: Vec<T>,
}

/// Lets all ways take turns, forwards in even runs and backwards in odd ones: what else the machine
/// does falls on all alike.
pub fn alternate<T>(runs: u32, mut ways: Vec<Way<'_, T>>) -> Result<Vec<Measured<T>>, Failure> {
    let mut measured: Vec<_> =
        ways.iter().map(|way| Measured { name: way.name, turns: Vec::new() }).collect();
    for run in 0..runs {
        let mut order: Vec<_> = (0..ways.len()).collect();
        if run % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let way = &mut ways[index];
            let turn = (way.turn)().map_err(|error| format!("{}: {error}", way.name))?;
            measured[index].turns.push(turn);
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_forwards_and_backwards() {
        let order = std::cell::RefCell::new(Vec::new());
        let way = |name| {
            let order = &order;
            Way::new(name, move || {
                order.borrow_mut().push(name);
                Ok(1)
            })
        };
        let measured = alternate(2, vec![way("a"), way("b"), way("c")]).unwrap();
        assert_eq!(*order.borrow(), ["a", "b", "c", "c", "b", "a"]);
        assert!(measured.iter().all(|it| it.turns == [1, 1]));
    }
}
