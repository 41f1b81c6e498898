"""Texts in CSV files, as spreadsheets read them: no cell is a formula, and letters stay what they are."""

BYTE_ORDER_MARK = "\ufeff"
"""At the start of a file; without it Excel takes UTF-8 for the system's old encoding."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What spreadsheets take for the beginning of a formula."""


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: what begins with ' is shown as it stands.

    See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{text}" if text.startswith(FORMULA) else text
