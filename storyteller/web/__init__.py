"""The page: stories for people with a browser and for programs (extra ``storyteller[web]``).

``workers`` tells the stories in processes of their own, ``app`` is the page and its HTTP interface, ``page/`` is what
the browser gets.
"""
