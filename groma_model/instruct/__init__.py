"""Grounded conversations written by a vision-language model, as the paper made Groma-Instruct.

``sources`` reads Visual Genome and COCO files, ``regions`` chooses regions, ``markers`` draws their numbers on the
picture, ``prompt`` asks, ``parse`` reads and validates the reply, ``dataset`` makes the rows of the result. Nothing
here talks to an endpoint.
"""
