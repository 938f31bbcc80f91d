"""Django's own test suite, run with the stock engine and with ours, and compared test by test.

`python -m tests.django_suite --help` says how; tox has an environment for each Django.
"""
