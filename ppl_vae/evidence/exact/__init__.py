"""Log evidence without random draws: closed form, enumeration and quadrature."""
