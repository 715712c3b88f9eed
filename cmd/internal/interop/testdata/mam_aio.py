"""The archive (XEP-0313) for aioxmpp, which has none: its queries are defined here by the library's own means (XSO),
with its own elements of XEP-0059.
"""
import aioxmpp
import aioxmpp.forms
import aioxmpp.misc
import aioxmpp.rsm.xso
import aioxmpp.xso as xso

MAM = "urn:xmpp:mam:2"


@aioxmpp.IQ.as_payload_class
class Query(xso.XSO):
    TAG = MAM, "query"
    queryid = xso.Attr("queryid", default=None)
    form = xso.Child([aioxmpp.forms.Data])
    rsm = xso.Child([aioxmpp.rsm.xso.ResultSetMetadata])


@aioxmpp.IQ.as_payload_class
class Fin(xso.XSO):
    TAG = MAM, "fin"
    complete = xso.Attr("complete", type_=xso.Bool(), default=False)
    stable = xso.Attr("stable", type_=xso.Bool(), default=True)
    rsm = xso.Child([aioxmpp.rsm.xso.ResultSetMetadata])


class Result(xso.XSO):
    TAG = MAM, "result"
    queryid = xso.Attr("queryid", default=None)
    id_ = xso.Attr("id")
    forwarded = xso.Child([aioxmpp.misc.Forwarded])


aioxmpp.Message.mam_result = xso.Child([Result])


def query(rsm, **fields):
    """The request of a page."""
    q = Query()
    q.rsm = rsm
    q.queryid = "q"
    q.form = aioxmpp.forms.Data(type_=aioxmpp.forms.DataType.SUBMIT)
    for name, value in {"FORM_TYPE": MAM, **fields}.items():
        kind = aioxmpp.forms.FieldType.HIDDEN if name == "FORM_TYPE" else None
        f = aioxmpp.forms.Field(var=name.replace("_", "-") if name != "FORM_TYPE" else name, values=[value])
        f.type_ = kind or aioxmpp.forms.FieldType.TEXT_SINGLE
        q.form.fields.append(f)
    return aioxmpp.IQ(type_=aioxmpp.IQType.SET, payload=q)
