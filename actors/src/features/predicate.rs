//! Predicates that need no interpreter: fields compared with texts and numbers, joined by `&&`, `||`, `!` and `?:`.
//!
//! Pure. The meaning is CEL's, its third outcome included: a field that is not there is an error, which `&&` and `||`
//! absorb where the other side decides, and which makes a predicate as a whole false. A property test holds this against
//! the interpreter.

use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue, operators as op},
};

use super::path::Path;
use crate::event::{
    EventRef,
    fields::{self, Kind, Value},
};

/// A predicate over one event.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Is(bool),
    /// The field itself.
    Field(Path),
    Equal(Path, Literal),
    NotEqual(Path, Literal),
    Ordered(Path, Order, Literal),
    Among(Path, Vec<Literal>),
    Text(Path, TextTest, String),
    /// Whether an object has a member.
    Has(Path, String),
    Not(Box<Test>),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
    Choice(Box<Test>, Box<Test>, Box<Test>),
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

impl Test {
    /// The test that `expr` is, if it is one of these.
    pub(super) fn of(expr: &IdedExpr) -> Option<Self> {
        match &expr.expr {
            Expr::Literal(LiteralValue::Boolean(flag)) => Some(Self::Is(*flag.inner())),
            Expr::Select(select) if select.test => Some(Self::Has(path_of(&select.operand)?, select.field.clone())),
            Expr::Ident(_) | Expr::Select(_) => path_of(expr).map(Self::Field),
            Expr::Call(call) => {
                let args = call.args.as_slice();
                match (call.func_name.as_str(), call.target.as_deref(), args) {
                    (op::LOGICAL_NOT, None, [inner]) => Some(Self::Not(Self::of(inner)?.into())),
                    (op::LOGICAL_AND, None, [a, b]) => Some(Self::And(Self::of(a)?.into(), Self::of(b)?.into())),
                    (op::LOGICAL_OR, None, [a, b]) => Some(Self::Or(Self::of(a)?.into(), Self::of(b)?.into())),
                    (op::CONDITIONAL, None, [c, a, b]) => {
                        Some(Self::Choice(Self::of(c)?.into(), Self::of(a)?.into(), Self::of(b)?.into()))
                    }
                    (op::EQUALS, None, [a, b]) => either(a, b).map(|(path, literal)| Self::Equal(path, literal)),
                    (op::NOT_EQUALS, None, [a, b]) => either(a, b).map(|(path, literal)| Self::NotEqual(path, literal)),
                    (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, None, [a, b]) => {
                        ordered(&call.func_name, a, b)
                    }
                    (op::IN, None, [a, b]) => among(a, b),
                    (name, Some(target), [argument]) => {
                        let test = match name {
                            "contains" => TextTest::Contains,
                            "startsWith" => TextTest::StartsWith,
                            "endsWith" => TextTest::EndsWith,
                            _ => return None,
                        };
                        let Literal::Text(text) = literal_of(argument)? else { return None };
                        Some(Self::Text(path_of(target)?, test, text))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether it holds for `event`; `None` is CEL's error.
    pub(super) fn holds(&self, event: EventRef<'_>) -> Option<bool> {
        match self {
            Self::Is(flag) => Some(*flag),
            Self::Equal(path, literal) => literal.equals(&path.find(event)?),
            Self::NotEqual(path, literal) => literal.equals(&path.find(event)?).map(|equal| !equal),
            Self::Among(path, literals) => {
                let value = path.find(event)?;
                if value.kind == Kind::Number {
                    number(&value)?; // what is no number here is an error, whatever the list
                }
                literals.iter().try_fold(false, |found, literal| Some(found || literal.equals(&value)?))
            }
            Self::Ordered(path, order, literal) => literal.orders(&path.find(event)?, *order),
            Self::Field(path) => truth(&path.find(event)?),
            Self::Text(path, test, text) => {
                let value = path.find(event)?;
                let found = value.as_str()?;
                Some(match test {
                    TextTest::Contains => found.contains(text),
                    TextTest::StartsWith => found.starts_with(text),
                    TextTest::EndsWith => found.ends_with(text),
                })
            }
            Self::Has(path, name) => {
                let value = path.find(event)?;
                (value.kind == Kind::Object).then(|| fields::member(value.raw, name).is_some())
            }
            Self::Not(inner) => inner.holds(event).map(|holds| !holds),
            Self::And(a, b) => match a.holds(event) {
                Some(true) => b.holds(event),
                Some(false) => Some(false),
                None => b.holds(event).filter(|holds| !holds),
            },
            Self::Or(a, b) => match a.holds(event) {
                Some(true) => Some(true),
                Some(false) => b.holds(event),
                None => b.holds(event).filter(|holds| *holds),
            },
            Self::Choice(condition, a, b) => if condition.holds(event)? { a } else { b }.holds(event),
        }
    }
}

fn truth(value: &Value<'_>) -> Option<bool> {
    (value.kind == Kind::Bool).then(|| value.raw == "true")
}

impl Literal {
    /// `None` for a number that is none here.
    #[inline]
    fn equals(&self, value: &Value<'_>) -> Option<bool> {
        match (self, value.kind) {
            (Self::Text(text), Kind::String) => {
                let inner = value.raw.get(1..value.raw.len() - 1)?;
                if inner == text {
                    return Some(!inner.contains('\\'));
                }
                // Escapes make a text longer, never shorter.
                Some(inner.len() > text.len() && inner.contains('\\') && value.as_str()? == text.as_str())
            }
            (_, Kind::Number) => {
                let number = number(value)?;
                Some(matches!(self, Self::Number(n) if *n == number))
            }
            (Self::Bool(flag), Kind::Bool) => Some(truth(value) == Some(*flag)),
            (Self::Null, Kind::Null) => Some(true),
            _ => Some(false),
        }
    }

    fn orders(&self, value: &Value<'_>, order: Order) -> Option<bool> {
        let ordering = match self {
            Self::Number(n) => number(value)?.partial_cmp(n)?,
            Self::Text(text) => value.as_str()?.as_ref().cmp(text.as_str()),
            _ => return None,
        };
        Some(match order {
            Order::Less => ordering.is_lt(),
            Order::LessOrEqual => ordering.is_le(),
            Order::Greater => ordering.is_gt(),
            Order::GreaterOrEqual => ordering.is_ge(),
        })
    }
}

fn number(value: &Value<'_>) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

/// The path that an expression is.
pub(super) fn path_of(expr: &IdedExpr) -> Option<Path> {
    let (mut inside, mut expr) = (Vec::new(), expr);
    loop {
        match &expr.expr {
            Expr::Ident(name) => {
                inside.reverse();
                return Some(Path::new(name, inside));
            }
            Expr::Select(select) if !select.test => {
                inside.push(select.field.clone());
                expr = &select.operand;
            }
            _ => return None,
        }
    }
}

/// The literal that an expression is.
pub(super) fn literal_of(expr: &IdedExpr) -> Option<Literal> {
    match &expr.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(flag) => Some(Literal::Bool(*flag.inner())),
            LiteralValue::Double(n) => Some(Literal::Number(*n.inner())).filter(|_| n.inner().is_finite()),
            LiteralValue::Int(n) => Some(Literal::Number(*n.inner() as f64)),
            LiteralValue::UInt(n) => Some(Literal::Number(*n.inner() as f64)),
            LiteralValue::Null => Some(Literal::Null),
            LiteralValue::String(text) => Some(Literal::Text(text.inner().to_owned())),
            LiteralValue::Bytes(_) => None,
        },
        Expr::Call(call) if call.func_name == op::NEGATE => match (call.args.as_slice(), &call.target) {
            ([inner], None) => match literal_of(inner)? {
                Literal::Number(n) => Some(Literal::Number(-n)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn either(a: &IdedExpr, b: &IdedExpr) -> Option<(Path, Literal)> {
    path_of(a).zip(literal_of(b)).or_else(|| path_of(b).zip(literal_of(a)))
}

fn ordered(operator: &str, a: &IdedExpr, b: &IdedExpr) -> Option<Test> {
    let forward = match operator {
        op::LESS => Order::Less,
        op::LESS_EQUALS => Order::LessOrEqual,
        op::GREATER => Order::Greater,
        _ => Order::GreaterOrEqual,
    };
    let (path, order, literal) = if let Some((path, literal)) = path_of(a).zip(literal_of(b)) {
        (path, forward, literal)
    } else {
        let (path, literal) = path_of(b).zip(literal_of(a))?;
        let order = match forward {
            Order::Less => Order::Greater,
            Order::LessOrEqual => Order::GreaterOrEqual,
            Order::Greater => Order::Less,
            Order::GreaterOrEqual => Order::LessOrEqual,
        };
        (path, order, literal)
    };
    matches!(literal, Literal::Number(_) | Literal::Text(_)).then_some(Test::Ordered(path, order, literal))
}

fn among(value: &IdedExpr, list: &IdedExpr) -> Option<Test> {
    let Expr::List(list) = &list.expr else { return None };
    if !list.optional_indices.is_empty() {
        return None;
    }
    let literals = list.elements.iter().map(literal_of).collect::<Option<Vec<_>>>()?;
    Some(Test::Among(path_of(value)?, literals))
}
