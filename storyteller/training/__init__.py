"""Training: the three models and style vectors, from plain text and pictures.

`corpus` reads texts, `vocabulary` numbers their words, `batches` puts sentences together; the
trainers stand on these.  Nothing here is imported by the modules that only use a model.
"""
