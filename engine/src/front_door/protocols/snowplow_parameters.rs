//! The parameters of Snowplow's tracker protocol: which field each becomes, and what its text means.
//!
//! Pure. The names of fields are those of Snowplow's enriched events, but for the session: `session_id` and `session_index`
//! are Keyloom's.

/// What the text of a parameter means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// Text.
    Text,
    /// Text that identifies: an empty one is none.
    Id,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `1`, `0`, `true`, `false`.
    Flag,
    /// `WIDTHxHEIGHT`, in pixels: this field and the one for the height.
    Size(&'static str),
    /// Epoch milliseconds.
    Time,
}

/// The field that a parameter becomes; `None` for one that has none, or that is read elsewhere.
pub(super) fn field(parameter: &str) -> Option<(&'static str, Meaning)> {
    use Meaning::{Flag, Id, Integer, Number, Size, Text, Time};
    Some(match parameter {
        "eid" => ("event_id", Id),
        "aid" => ("app_id", Text),
        "p" => ("platform", Text),
        "tna" => ("name_tracker", Text),
        "tv" => ("v_tracker", Text),
        "cv" => ("v_collector", Text),
        "tid" => ("txn_id", Integer),
        "dtm" => ("dvce_created_tstamp", Time),
        "stm" => ("dvce_sent_tstamp", Time),
        "ttm" => ("true_tstamp", Time),
        "uid" => ("user_id", Id),
        "duid" => ("domain_userid", Id),
        "tnuid" | "nuid" => ("network_userid", Id),
        "sid" => ("session_id", Id),
        "vid" => ("session_index", Integer),
        "ip" => ("user_ipaddress", Id),
        "fp" => ("user_fingerprint", Text),
        "ua" => ("useragent", Text),
        "url" => ("page_url", Text),
        "page" => ("page_title", Text),
        "refr" => ("page_referrer", Text),
        "lang" => ("br_lang", Text),
        "cookie" => ("br_cookies", Flag),
        "cd" => ("br_colordepth", Text),
        "vp" => ("br_viewwidth", Size("br_viewheight")),
        "f_pdf" => ("br_features_pdf", Flag),
        "f_fla" => ("br_features_flash", Flag),
        "f_java" => ("br_features_java", Flag),
        "f_dir" => ("br_features_director", Flag),
        "f_qt" => ("br_features_quicktime", Flag),
        "f_realp" => ("br_features_realplayer", Flag),
        "f_wma" => ("br_features_windowsmedia", Flag),
        "f_gears" => ("br_features_gears", Flag),
        "f_ag" => ("br_features_silverlight", Flag),
        "res" => ("dvce_screenwidth", Size("dvce_screenheight")),
        "tz" => ("os_timezone", Text),
        "cs" => ("doc_charset", Text),
        "ds" => ("doc_width", Size("doc_height")),
        "se_ca" | "ev_ca" => ("se_category", Text),
        "se_ac" | "ev_ac" => ("se_action", Text),
        "se_la" | "ev_la" => ("se_label", Text),
        "se_pr" | "ev_pr" => ("se_property", Text),
        "se_va" | "ev_va" => ("se_value", Number),
        "tr_id" => ("tr_orderid", Text),
        "tr_af" => ("tr_affiliation", Text),
        "tr_tt" => ("tr_total", Number),
        "tr_tx" => ("tr_tax", Number),
        "tr_sh" => ("tr_shipping", Number),
        "tr_ci" => ("tr_city", Text),
        "tr_st" => ("tr_state", Text),
        "tr_co" => ("tr_country", Text),
        "tr_cu" => ("tr_currency", Text),
        "ti_id" => ("ti_orderid", Text),
        "ti_sk" => ("ti_sku", Text),
        "ti_nm" | "ti_na" => ("ti_name", Text),
        "ti_ca" => ("ti_category", Text),
        "ti_pr" => ("ti_price", Number),
        "ti_qu" => ("ti_quantity", Integer),
        "ti_cu" => ("ti_currency", Text),
        "pp_mix" => ("pp_xoffset_min", Integer),
        "pp_max" => ("pp_xoffset_max", Integer),
        "pp_miy" => ("pp_yoffset_min", Integer),
        "pp_may" => ("pp_yoffset_max", Integer),
        _ => return None,
    })
}

/// The parameter that counts before this one, where both become the same field: the tracker's own network id, and the newer
/// of two names.
pub(super) fn overruled_by(parameter: &str) -> Option<&'static str> {
    Some(match parameter {
        "nuid" => "tnuid",
        "ev_ca" => "se_ca",
        "ev_ac" => "se_ac",
        "ev_la" => "se_la",
        "ev_pr" => "se_pr",
        "ev_va" => "se_va",
        "ti_na" => "ti_nm",
        _ => return None,
    })
}

/// The event that a code in `e` stands for.
pub(super) fn event(code: &str) -> Option<&'static str> {
    Some(match code {
        "pv" => "page_view",
        "pp" => "page_ping",
        "ue" => "unstruct",
        "se" => "struct",
        "tr" => "transaction",
        "ti" => "transaction_item",
        _ => return None,
    })
}

/// Width and height.
pub(super) fn size(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.split_once('x')?;
    Some((width.trim().parse().ok()?, height.trim().parse().ok()?))
}

/// A flag.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}
