"""What columns are called that hold users, items, times, labels and the like, in the tables of shops and of research.

A name is cut into words ("Customer ID", "customerId", "customer_id" are the same two); a column is called after a role
if its words are the role's and, beside them, words for ids.
"""

import re
from collections.abc import Collection
from enum import StrEnum


class Role(StrEnum):
    """What a column may be to the rows."""

    USER = "user"
    ITEM = "item"
    TIME = "time"
    LABEL = "label"
    RATING = "rating"
    KIND = "kind"
    POSITION = "position"
    QUERY = "query"
    SPLIT = "split"
    SEGMENT = "segment"
    QUANTITY = "quantity"
    PRICE = "price"
    AFTERWARDS = "afterwards"
    CATEGORY = "category"
    TITLE = "title"
    YEAR = "year"
    BEGINNING = "beginning"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IDS = _words("id ids no nr num number key code idx index hash uuid guid identifier")
_NAMES = _words("name title")
_OF = {
    Role.USER: _words(
        "user customer client reviewer visitor member person buyer shopper account uid player listener viewer reader "
        "subscriber household consumer author critic rater cust usr userid customerid"
    ),
    Role.ITEM: _words(
        "item product sku asin stock movie article track song book film video isbn game recipe listing ad news "
        "document hotel restaurant business good gtin ean upc iid pid mid prod show course app artist album venue "
        "material plu itemid productid stockcode"
    ),
    Role.TIME: _words(
        "time date timestamp ts datetime day when moment at dt dat created occurred epoch unix utc event purchased "
        "review rating order invoice transaction view click purchase interaction t sales visit"
    ),
    Role.LABEL: _words(
        "label target y clicked click is purchased bought converted conversion like liked watched response outcome buy "
        "purchase engaged"
    ),
    Role.RATING: _words("rating ratings stars star score overall grade review mark"),
    Role.KIND: _words("event type action behavior behaviour interaction kind activity"),
    Role.POSITION: _words("position pos order sequence seq step rank turn place"),
    Role.QUERY: _words(
        "invoice order basket session transaction cart receipt impression search request bill ticket visit trip "
        "checkout"
    ),
    Role.SPLIT: _words("split fold set partition subset"),
    Role.SEGMENT: _words("segment group cohort tier cluster"),
    Role.QUANTITY: _words("quantity qty amount units pieces count"),
    Role.PRICE: _words("price cost amount revenue sales total value paid fee"),
    Role.AFTERWARDS: _words(
        "review text summary comment comments body helpful helpfulness vote votes upvotes reply feedback verified"
    ),
    Role.CATEGORY: _words(
        "category categories type class group department brand zip zipcode postcode postal region city country state "
        "store shop channel month weekday hour colour color size gender sex occupation segment genre genres tags kind "
        "family section language device platform flag code id"
    ),
    Role.TITLE: _words("title name description headline product item movie text prod short long"),
    Role.YEAR: _words("year"),
    Role.BEGINNING: _words("valid from since start effective asof changed updated"),
}


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, in small letters.

    >>> words_of("reviewerID"), words_of("Unit Price"), words_of("t_dat2")
    (('reviewer', 'id'), ('unit', 'price'), ('t', 'dat', '2'))
    """
    parted = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", name)
    return tuple(word.lower() for word in re.findall(r"[^\W\d_]+|\d+", parted))


def score(name: str, role: Role) -> int:
    """How well a name fits a role: 4 by nothing but its words and one for ids, 3 without, 2 with others, 0 not at all.

    >>> [score(name, Role.ITEM) for name in ("product_id", "asin", "parent_product_id", "product_name", "price")]
    [4, 3, 2, 1, 0]
    """
    words = words_of(name)
    own = [word for word in words if word in _OF[role]]
    other = [word for word in words if word not in _OF[role] and word not in _IDS]
    has_id = any(word in _IDS for word in words)
    if not own:
        return 0
    if not other:
        return 4 if has_id else 3
    if set(other) <= _NAMES:
        return 1
    return 2 if has_id and len(other) == 1 else 0


def is_called(name: str, role: Role) -> bool:
    """Whether any word of a name is one of the role's."""
    return any(word in _OF[role] for word in words_of(name))


def is_only(name: str, role: Role, beside: Collection[str] = ()) -> bool:
    """Whether every word of a name is one of the role's, or of those beside."""
    return all(word in _OF[role] or word in beside for word in words_of(name)) and is_called(name, role)
