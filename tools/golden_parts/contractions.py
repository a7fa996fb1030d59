"""einsum, the named products, and diagonals."""
import torch

from golden_case import INF, NAN, case, make, t64


def cases():
    table = [
        ("ij,jk->ik", (3, 4), (4, 2)), ("ij,jk", (3, 4), (4, 2)), ("ij,jk->ki", (3, 4), (4, 2)), ("ij , kj -> ik", (3, 4), (2, 4)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)), ("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 5, 2, 4)), ("bij,ij->b", (2, 3, 4), (3, 4)),
        ("bij,ji->b", (2, 3, 4), (4, 3)), ("bij,bij->bi", (2, 3, 4), (2, 3, 4)), ("ij,ij->ij", (3, 4), (3, 4)), ("ij,ij", (3, 4), (3, 4)),
        ("ij,ji->ij", (3, 3), (3, 3)), ("i,j->ij", (3,), (4,)), ("i,j->ji", (3,), (4,)), ("i,i->", (4,), (4,)), ("ii", (3, 3)), ("ii->i", (3, 3)),
        ("iij->ji", (3, 3, 2)), ("iii->i", (3, 3, 3)), ("iji->j", (3, 2, 3)), ("ijkij->k", (2, 3, 4, 2, 3)), ("ii,i->i", (3, 3), (3,)),
        ("ii,jj->ij", (3, 3), (2, 2)), ("abc->ca", (2, 3, 4)), ("ba", (2, 3)), ("ijk->", (2, 3, 4)), ("...d,dv->...v", (2, 3, 4), (4, 5)),
        ("...ij,...jk->...ik", (2, 1, 3, 2), (4, 2, 3)), ("...ij,...jk", (5, 3, 2), (2, 4)), ("i...,i...->...", (3, 2), (3, 1)),
        ("...->...", (2, 3)), ("...i->...", (2, 3)), ("...i->i", (2, 3)), ("i...->...i", (2, 3, 4)), ("bi,bi->b", (1, 4), (3, 4)),
        ("bi,bi->i", (1, 4), (3, 4)), ("ij,k->i", (2, 3), (4,)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ij,jk,ki->", (2, 3), (3, 4), (4, 2)),
        ("i,j,k->kji", (2,), (3,), (4,)), ("bi,bj,bij->b", (2, 3), (2, 4), (2, 3, 4)), ("ij,j,j->i", (2, 3), (3,), (3,)), (",i->i", (), (3,)),
        (",", (), ()), ("aB,Bc", (2, 3), (3, 4)), ("Ab->bA", (2, 3)), ("ij,jk", (0, 3), (3, 2)), ("ij,jk", (2, 0), (0, 3)),
        ("abcd,efcd->abef", (2, 3, 2, 2), (2, 2, 2, 2)), ("a...b,b...a->...", (2, 3, 4), (4, 3, 2)), ("xij,xjk,xkl,xlm->im", (2, 2, 3), (2, 3, 2), (2, 2, 3), (2, 3, 2)),
    ]
    for equation, *shapes in table:
        case("einsum", f"{equation} {' '.join(map(str, map(list, shapes)))}", lambda *t: torch.einsum(equation, *t),
             [make("einsum", s) for s in shapes], {"equation": equation})
    case("einsum", "int64", lambda a, b: torch.einsum("ij,jk->ik", a, b), [torch.arange(6).reshape(2, 3), torch.arange(12).reshape(3, 4)],
         {"equation": "ij,jk->ik"})
    case("einsum", "NaN and Inf", lambda a, b: torch.einsum("ij,j->i", a, b), [t64(1, NAN, 2, INF).reshape(2, 2), t64(1, 2)],
         {"equation": "ij,j->i"}, gradients=False)

    pairs = {
        "dot": (torch.dot, [((5,), (5,)), ((0,), (0,))]), "vdot": (torch.vdot, [((5,), (5,))]),
        "inner": (torch.inner, [((4,), (4,)), ((2, 3, 4), (5, 4)), ((), (2, 3)), ((2, 0), (3, 0))]),
        "outer": (torch.outer, [((3,), (4,)), ((0,), (4,))]), "mv": (torch.mv, [((3, 4), (4,)), ((3, 0), (0,))]),
        "mm": (torch.mm, [((3, 4), (4, 2)), ((0, 4), (4, 2)), ((3, 0), (0, 2))]), "bmm": (torch.bmm, [((2, 3, 4), (2, 4, 2)), ((0, 3, 4), (0, 4, 2))]),
        "kron": (torch.kron, [((2, 3), (3, 2)), ((3,), (2, 2)), ((), (3,)), ((2, 1, 2), (2, 3))]),
    }
    for op, (fn, shapes) in pairs.items():
        for a, b in shapes:
            case(op, f"{list(a)} {list(b)}", fn, [make(op, a), make(op, b)])
    for a, b, axis in (((4, 3), (4, 3), -1), ((3, 4), (3, 4), 0), ((2, 1, 3), (1, 4, 3), 2)):
        case("cross", f"{list(a)} {list(b)} axis {axis}", lambda a, b: torch.linalg.cross(a, b, dim=axis), [make("cross", a), make("cross", b)], {"axis": axis})
    sums = {
        "addmm": (torch.addmm, [((3, 2), (3, 4), (4, 2)), ((2,), (3, 4), (4, 2)), ((), (3, 0), (0, 2))]),
        "addmv": (torch.addmv, [((3,), (3, 4), (4,)), ((1,), (3, 4), (4,))]), "addr": (torch.addr, [((3, 2), (3,), (2,)), ((2,), (3,), (2,))]),
        "baddbmm": (torch.baddbmm, [((2, 3, 2), (2, 3, 4), (2, 4, 2)), ((2,), (2, 3, 4), (2, 4, 2))]),
        "addbmm": (torch.addbmm, [((3, 2), (2, 3, 4), (2, 4, 2)), ((2,), (2, 3, 4), (2, 4, 2))]),
    }
    for op, (fn, shapes) in sums.items():
        for s in shapes:
            for beta, alpha in ((1, 1), (0.5, -2), (0, 1)):
                case(op, f"{' '.join(map(str, map(list, s)))} beta {beta} alpha {alpha}", lambda i, a, b: fn(i, a, b, beta=beta, alpha=alpha),
                     [make(op, k) for k in s], {"beta": beta, "alpha": alpha})
        i, a, b = (make(op, k) for k in shapes[0])
        case(op, "NaN ignored", lambda a, b: fn(torch.full_like(i, NAN, dtype=a.dtype), a, b, beta=0), [a, b], {"beta": 0, "nan": list(i.shape)})
    case("addmm", "int32", lambda i, a, b: torch.addmm(i, a, b, beta=2, alpha=3), [torch.ones(2, 2, dtype=torch.int32),
         torch.arange(4, dtype=torch.int32).reshape(2, 2), torch.arange(4, dtype=torch.int32).reshape(2, 2)], {"beta": 2, "alpha": 3})
    for n in (0, 1, 2):
        case("tensordot", f"{n} axes", lambda a, b: torch.tensordot(a, b, n), [make("tensordot", (2, 3, 3)), make("tensordot", (3, 3, 2))], {"count": n})
    case("tensordot", "by name", lambda a, b: torch.tensordot(a, b, ([0, -1], [2, 0])), [make("tensordot", (2, 3, 4)), make("tensordot", (4, 5, 2))],
         {"a": [0, -1], "b": [2, 0]})

    for label, s, offset, a, b in (("vector", (3,), 0, -2, -1), ("above", (2, 3), 1, -2, -1), ("below", (2, 3), -2, 0, 2), ("swapped", (2, 3), 1, 2, 0)):
        case("diag_embed", label, lambda x: torch.diag_embed(x, offset, a, b), [make("diag_embed", s)], {"offset": offset, "axes": [a, b]})
    for s, offset in (((3,), 0), ((3,), -2), ((3, 4), 1), ((0, 2), 0)):
        case("diag", f"{list(s)} {offset}", lambda x: torch.diag(x, offset), [make("diag", s)], {"offset": offset})
    for s in ((4, 4), (3, 5), (0, 3)):
        case("trace", str(list(s)), torch.trace, [make("trace", s)])
    case("trace", "int32", torch.trace, [torch.arange(6, dtype=torch.int32).reshape(2, 3)])
