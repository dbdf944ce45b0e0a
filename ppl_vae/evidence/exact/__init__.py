"""Log evidence without random draws: in closed form, by enumeration, by quadrature."""
