//! The little shop that the synthetic visitors walk through: its pages, what happens on them, the devices they use.
//!
//! Pure data. No text here needs escaping in JSON.

/// What a page is for: decides what can happen on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageKind {
    Home,
    Category,
    Product,
    Cart,
    Account,
}

/// Product pages of the shop.
pub(super) const PRODUCTS: u64 = 2_000;
/// Category pages of the shop.
const CATEGORIES: [&str; 8] = ["tents", "stoves", "boots", "maps", "lamps", "ropes", "packs", "sale"];

/// Where the shop is.
const SHOP: &str = "https://shop.example/";

/// Pages are numbers, so that a visitor remembers one in four bytes: home, cart, account, categories, products.
pub(super) const HOME: u32 = 0;
pub(super) const CART: u32 = 1;
pub(super) const ACCOUNT: u32 = 2;
pub(super) const FIRST_CATEGORY: u32 = 3;
pub(super) const FIRST_PRODUCT: u32 = FIRST_CATEGORY + CATEGORIES.len() as u32;

/// How many categories there are.
pub(super) const CATEGORY_COUNT: u64 = CATEGORIES.len() as u64;

/// What kind of page a number stands for.
pub(super) fn kind(page: u32) -> PageKind {
    match page {
        HOME => PageKind::Home,
        CART => PageKind::Cart,
        ACCOUNT => PageKind::Account,
        page if page < FIRST_PRODUCT => PageKind::Category,
        _ => PageKind::Product,
    }
}

/// Appends the address of a page.
pub(super) fn write_url(out: &mut Vec<u8>, page: u32) {
    out.extend_from_slice(SHOP.as_bytes());
    match kind(page) {
        PageKind::Home => {}
        PageKind::Cart => out.extend_from_slice(b"cart"),
        PageKind::Account => out.extend_from_slice(b"account"),
        PageKind::Category => {
            out.extend_from_slice(b"c/");
            out.extend_from_slice(CATEGORIES[(page - FIRST_CATEGORY) as usize].as_bytes());
        }
        PageKind::Product => {
            out.extend_from_slice(b"p/");
            super::text::decimal(out, u64::from(page - FIRST_PRODUCT) + 1);
        }
    }
}

/// A device: platform, application, user agent, viewport. Drawn evenly, once per user.
pub(super) const DEVICES: [[&str; 4]; 8] = [
    ["web", "shop", "Firefox/144.0 (Linux)", "1920x1080"],
    ["web", "shop", "Firefox/143.0 (Windows)", "1536x864"],
    ["web", "shop", "Chrome/142.0 (Windows)", "1920x1080"],
    ["web", "shop", "Chrome/142.0 (macOS)", "1440x900"],
    ["web", "shop", "Safari/18.6 (macOS)", "1512x982"],
    ["web", "shop", "Safari/18.6 (iPhone)", "390x844"],
    ["mob", "shop-app", "ShopApp/7.3 (Android)", "412x915"],
    ["mob", "shop-app", "ShopApp/7.3 (iOS)", "393x852"],
];

/// What brought a visitor to the shop.
pub(super) const REFERRERS: [&str; 5] = ["direct", "search", "ad", "mail", "social"];

/// The words that padding is made of, so that it compresses about as well as real text.
pub(super) const WORDS: [&str; 32] = [
    "river", "stone", "north", "camp", "light", "wool", "pine", "trail", "smoke", "kettle", "rain", "ridge", "moss",
    "ember", "lake", "frost", "birch", "cloud", "south", "knot", "canvas", "copper", "dusk", "field", "amber",
    "gravel", "harbor", "iron", "juniper", "meadow", "oak", "pebble",
];
