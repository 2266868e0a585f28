"""Every filter, test, global and method that a chat template may name: decided one by one, and the same as in transformers."""

from __future__ import annotations

import pytest
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_NAMESPACE, DEFAULT_TESTS
from transformers.utils.chat_template_utils import render_jinja_template

from quire.errors import TemplateError
from quire.text.chat import ChatTemplate
from quire.text.template_names import (
    ALLOWED_GLOBALS,
    DEEP_FILTERS,
    METHODS,
    REFUSED_FILTERS,
    REFUSED_GLOBALS,
    REFUSED_METHODS,
    SHALLOW_FILTERS,
)

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yo \u00e9"}]
EXPRESSIONS = r"""
[1,2,3]|batch(2)|list
[1,2,3]|batch(2,0)|list
messages|count
undefinedx|d('z')
''|default('q',true)
13000|filesizeformat
13000|filesizeformat(true)
[1,2]|first
messages[0]|items|list
[1,2]|last
'abc'|list
messages|map('length')|list
messages|map(attribute='content')|list
messages|map(attribute='zz',default='n')|list
[1,2,3]|reject('odd')|list
messages|rejectattr('role','equalto','user')|list
'abc'|reverse
[1,2]|reverse|list
'<a>'|safe
('<a>'|safe) + '<'
'<' + ('<a>'|safe)
[0,1]|select|list
messages|selectattr('content')|list|length
[1,2,3,4,5]|slice(2)|list
[1,2,3,4,5]|slice(3,0)|list
-3|abs
'hELLO wORLD'|capitalize
'ab'|center(9)
{'b':1,'A':2}|dictsort
{'b':1,'A':2}|dictsort(true,'value',reverse=true)
'<&"'|e
'<'|escape|escape
'<'|e|forceescape
('<'|e) ~ '<'
('<'|e).format(1)
'1.5'|float
'x'|float(2.5)
'%s-%5d|%-4s|%.2f|%%'|format('a',3,'b',1.239)
'%(a)s-%(b)03d'|format(a=1,b=2)
'x%*d'|format(5,3)
[{'g':1,'v':2},{'g':1,'v':3},{'g':0,'v':4}]|groupby('g')|map('list')|list|length
'a\nb\n\nc'|indent
'a\nb'|indent(2,true)
'a\n\nb'|indent('> ',blank=true)
'42.9'|int
'ff'|int(0,16)
'x'|int(7)
[1,'a',none]|join('-')
messages|join(',',attribute='role')
'ABC'|lower
[3,1,2]|max
['b','A']|min
messages|max(attribute='role')
{'b':[1,2],'a':'x'}|pprint
'aXbX'|replace('X','y',1)
1.256|round(2)
2.5|round
1.2|round(0,'ceil')
1.27|round(1,'floor')
[3,1,2]|sort
messages|sort(attribute='role')|list
['b','A']|sort(case_sensitive=true,reverse=true)
5|string
'<p>a  <b>b</b></p><!-- x -->'|striptags
[1,2.5]|sum
[{'a':1},{'a':2}]|sum(attribute='a',start=10)
[[1],[2]]|sum(start=[])
['a','b']|sum
['a']|sum(start='')
"it's a-test"|title
{'a':'<\u00e9>'}|tojson
{'b':1,'a':[1,{'c':2}]}|tojson(indent=2)
{'b':1,'a':2}|tojson(true,none,[',',':'],true)
{'\u00e9':1}|tojson(ensure_ascii=true)
[1]|tojson(indent='--')
'  a '|trim
'xxaxx'|trim('x')
'foo bar baz qux'|truncate(9)
'foo bar baz'|truncate(5,true,'..',0)
[1,1,'a','A']|unique|list
'stra\u00dfe'|upper
'a b/\u00e9&'|urlencode
{'a':'1 2','b':3}|urlencode
'a b, c'|wordcount
'the quick brown fox jumps'|wordwrap(10)
'abcdefghij'|wordwrap(3,wrapstring='|')
{'a':1,'b':none,'c':'<'}|xmlattr
'a b'.title()
'x'.center(5,'*')
'x'.ljust(4) ~ '|'
'x'.rjust(4,'0')
'7'.zfill(3)
'a\tb'.expandtabs(4)
'{}{}'.format(1,'a')
'{0[a]} {0.b}'.format({'a':1,'b':2})
'{a!r:>6}'.format(a='\u00e9')
'{:{w}.{p}f}'.format(3.14159,w=10,p=2)
'{a}'.format_map({'a':3})
'{:,}'.format(1234567)
'{:08.3f}'.format(3.14159)
'{:x}'.format(255)
'a%sb' % 3
'a%s%s' % ('x', 1.5)
'%(x)s' % {'x': 1}
'%s' % [[1]]
'%r' % '\u00e9'
'abc'.translate({97:'X',98:none})
'abc'.maketrans('ab','cd')
'a'.isascii()
'Ab'.istitle()
'a1'.isidentifier()
'a'.isprintable()
[1,2,1].count(1)
[1,2].copy()
[1,2].index(9)
(1,2).index(2)
(1,1).count(1)
messages[0].copy()
{}.fromkeys(['a','b'],1)
dict(a=1,b=2)
dict([('a',1)])
dict.fromkeys('ab')
(5).bit_length()
(5).real
(1.5).is_integer()
(1.5).as_integer_ratio()
(2.5).hex()
(1).conjugate()
namespace(a=1).a
namespace({'b':2}).b
range(3)|list
cycler('a','b').next()
cycler('a','b').current
joiner('|')()
3 is divisibleby 3
true is boolean
1 is integer
1.0 is float
none is none
'a' is string
{} is mapping
[] is sequence
[] is iterable
'x' is in ['x']
'x' is in 'xyz'
5 is odd
4 is even
1 is number
'A' is upper
'a' is lower
1 is sameas 1
'x' is filter
'upper' is filter
'odd' is test
x is undefined
messages is defined
range is callable
false is false
true is true
'<'|e is escaped
1 is eq 1
2 is gt 1
messages[0].get('zz','d')
messages[0].keys()|list
messages[0].items()
messages[0].values()
'a,b'.split(',',1)
'a b'.rsplit()
'a\nb'.splitlines()
'a=b'.partition('=')
'ab'.removeprefix('a')
'ab'.rfind('b')
'x' * 3
7 // 2
7 % 3
2 ** 8
7 / 2
-7 // 2
'a' in 'abc'
1 < 2 < 3
(1,2)
[1,'a']
{'a':(1,)}
1.0
1e20
none
true
undefinedx
undefinedx.a
messages[0].zz
messages[5]
'a'[5]
'abc'[::-1]
[1,2,3][1:]
'a' if false
'a' ~ 1 ~ none
documents
tools
messages[0]['role']
'%d' % 'x'
'{}'.format()
'a'.join([1])
'x'.join(messages|map(attribute='role'))
','.join({'a':1})
'1' + 1
[1] + [2]
(1,) + (2,)
1 + 1.5
messages[0]|attr('role')
[messages[0].keys() - ['role']]|length
'abc'|first
''|first
[]|last
'b' > 'a'
not 1
'x'|tojson|safe
('x'|tojson|safe) ~ 'y'
[('x'|tojson|safe)]|join(',')
messages|tojson(indent=4)
'%s'|format(messages[0])
'{}'.format(messages[0])
'{:%Y}'.format(1)
'%c' % 65
'%5.1f%%' % 99.5
'a'.format(1,2)
'{{}}'.format()
messages|length
"""


@pytest.mark.parametrize("expression", EXPRESSIONS.strip().splitlines())
def test_an_expression_is_written_as_in_transformers(expression: str) -> None:
    source = "{{ " + expression + " }}"
    try:
        expected = render_jinja_template([MESSAGES], chat_template=source)[0][0]
    except Exception:
        expected = None
    try:
        written = ChatTemplate(source, special_tokens={}).render(MESSAGES)
    except TemplateError:
        written = None
    assert written == expected


def test_every_filter_and_global_of_jinja_is_decided() -> None:
    assert sorted((*SHALLOW_FILTERS, *DEEP_FILTERS, *REFUSED_FILTERS)) == sorted(DEFAULT_FILTERS)
    assert sorted((*ALLOWED_GLOBALS, *REFUSED_GLOBALS)) == sorted(DEFAULT_NAMESPACE)


@pytest.mark.parametrize("name", sorted(DEFAULT_TESTS))
def test_every_test_of_jinja_exists(name: str) -> None:
    assert ChatTemplate("{{ '" + name + "' is test }}", special_tokens={}).render(MESSAGES) == "True"


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_method_of_a_plain_value_is_decided(kind: type) -> None:
    refused = set(REFUSED_METHODS.get(kind, ()))
    assert {name for name in dir(kind) if not name.startswith("_")} <= METHODS[kind] | refused
    assert not METHODS[kind] & refused
