#!/usr/bin/python3
"""The table of scripts/bench says what was measured: on made-up samples whose results are known."""

import os
import sys
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..', 'bench'))

# pylint: disable=wrong-import-position
import contenders
import counters
import goals
import picture
import report
import workloads

NAMES = ('glibc', 'bartender', 'mimalloc')


def samples_of(times, names=NAMES):
    """times[workload][contender]: one number a round, None where it could not run."""
    chosen = [w for w in workloads.all_workloads() if w.name in times]
    samples = report.Samples(chosen, list(names))
    for workload in chosen:
        for name in names:
            for value in times[workload.name][name]:
                samples.add(workload, name, None if value is None else
                            {workload.value: value, 'peak_rss_bytes': 1 << 20})
    return samples


def verdicts(judged):
    return {goal.name: goal.verdict for goal in judged}


class ReportTest(unittest.TestCase):
    def test_ratio_is_the_median_of_the_same_rounds(self):
        samples = samples_of({'larson 1T': {'glibc': [10, 20, 40], 'bartender': [5, 40, 40],
                                            'mimalloc': [None, 10, 10]}})
        workload = samples.workloads[0]
        self.assertEqual(samples.ratio(workload, 'bartender', 'glibc')[1], 1)
        self.assertEqual(samples.same_round_ratios(workload, 'mimalloc', 'glibc',
                                                   workload.value), [0.5, 0.25])

    def test_mean_over_what_both_ran(self):
        samples = samples_of({
            'larson 1T': {'glibc': [10], 'bartender': [20], 'mimalloc': [10]},
            'larson 2T': {'glibc': [10], 'bartender': [5], 'mimalloc': [None]}})
        mean, count, worst = samples.mean_of_ratios('bartender', 'glibc', ('threads',))
        self.assertAlmostEqual(mean, 1)
        self.assertEqual((count, worst), (2, (2, 'larson 1T')))
        self.assertEqual(samples.mean_of_ratios('mimalloc', 'glibc', ('threads',))[1], 1)

    def test_goal_is_hit_missed_or_not_measured(self):
        samples = samples_of({
            'larson 1T': {'glibc': [10], 'bartender': [16], 'mimalloc': [10]},
            'pair 64K 1T': {'glibc': [10], 'bartender': [15], 'mimalloc': [10]},
            'pair 64K 2T': {'glibc': [10], 'bartender': [10], 'mimalloc': [10]},
            'pair 2M 1T': {'glibc': [10], 'bartender': [10], 'mimalloc': [10]}})
        found = verdicts(goals.judge(samples, {'instructions, pair 64': {'bartender': 55}}))
        self.assertEqual(found['time, threads, worst, to mimalloc (larson 1T)'], 'MISSED')
        self.assertEqual(found['pair 64K 1T and pair 64K 2T, to glibc'], 'hit')
        self.assertEqual(found['pair 2M 1T and pair 2M 2T, to glibc'], 'not measured')
        self.assertEqual(found['instructions, pair 64'], 'MISSED')
        self.assertEqual(found['instructions, calloc 64'], 'not measured')
        self.assertEqual(found['time, small blocks, mean, to jemalloc'], 'not measured')

    def test_a_goal_of_far_memory_may_be_a_least(self):
        samples = samples_of({'far sequential': {'bartender': [0.9, 0.8, 0.7]}}, ('bartender',))
        for line in samples.lines['far sequential']['bartender']:
            line['over_demand'] = 5
        found = verdicts(goals.judge(samples, {}))
        self.assertEqual(found['far sequential, of the link'], 'MISSED')
        self.assertEqual(found['far sequential, to demand of 4 KiB'], 'hit')
        self.assertEqual(found['first write to a clean far page, ns'], 'not measured')

    def test_every_goal_names_what_exists(self):
        everything = {w.name for w in workloads.all_workloads()}
        groups = {w.group for w in workloads.all_workloads()}
        for names, *_ in goals.SINGLE:
            self.assertLessEqual(set(names), everything)
        self.assertLessEqual({name for name, *_ in goals.FAR}, everything)
        for _, of, *_ in goals.MEANS:
            self.assertLessEqual(set(of), groups)
        cases = {name for name, _, _ in counters.CASES}
        self.assertLessEqual({name for name, _ in goals.INSTRUCTIONS}, cases)
        self.assertLessEqual({name for name, _ in counters.FLUSH_CASES}, cases)

    def test_instructions_are_told_apart(self):
        self.assertTrue(counters.is_flush('clwb   (%rdi)'))
        self.assertTrue(counters.is_flush('clflushopt (%rax)'))
        self.assertTrue(counters.is_flush('movnti %rax,(%rdi)'))
        self.assertFalse(counters.is_flush('movntdqa (%rdi),%xmm0'))
        self.assertTrue(counters.is_drain('sfence'))
        self.assertFalse(counters.is_drain('lfence'))
        self.assertTrue(counters.is_locked('xchg   %eax,(%rdi)'))
        self.assertFalse(counters.is_locked('xchg   %ax,%ax'))


class ContenderTest(unittest.TestCase):
    def setUp(self):
        self.all = {c.name: c for c in contenders.all_contenders('/lib/libbartender.so')}

    def command(self, name, words, own=False):
        return self.all[name].command(words.split(), '/d', own)

    def test_preloaded_ones_run_all_but_what_they_replace(self):
        self.assertEqual(self.command('glibc', 'small pair'), ['small', 'pair'])
        self.assertEqual(self.command('bartender', 'nvm_malloc fastalloc 1 64')[0], 'nvm_malloc')
        self.assertEqual(self.command('bartender-lazy', 'small pair'), ['small', 'pair'])
        self.assertEqual(self.command('bartender-lazy', 'nvm_malloc fastalloc 1 64'),
                         'nvm_bartender fastalloc 1 64 --durability lazy --arena /d/bench.arena'.split())

    def test_others_run_their_own(self):
        self.assertIsNone(self.command('bartender-process', 'small pair'))
        self.assertIsNone(self.command('gc', 'large grow'))
        self.assertEqual(self.command('pmemobj-tx', 'small pair --size 64'),
                         'pmemobj pair --size 64 --mode tx --pool /d/pmemobj.pool'.split())

    def test_own_workloads_are_only_for_those_with_a_program(self):
        self.assertIsNone(self.command('bartender-lazy', 'collector list', True))
        self.assertEqual(self.command('gc', 'collector list', True), ['gc_collector', 'list'])
        self.assertEqual(self.command('bartender-strict', 'durable pair', True),
                         'durable pair --level strict --directory /d'.split())
        ran = {w.name: [n for n, c in self.all.items() if c.command(w.arguments(True), '/d', True)]
               for w in workloads.all_workloads() if w.own}
        self.assertEqual(ran['durable transaction'],
                         ['bartender-process', 'bartender-lazy', 'bartender-strict', 'pmemobj-tx'])
        # Far memory is compared within its own programs.
        self.assertTrue(all(len(names) > 1 for name, names in ran.items() if not name.startswith('far ')), ran)

    def test_every_base_is_a_contender(self):
        for workload in workloads.all_workloads():
            self.assertIn(workload.base, list(self.all) + [None], workload.name)
            if workload.group != 'far':
                self.assertEqual(workload.base is not None, workload.only_persistent, workload.name)


class PictureTest(unittest.TestCase):
    def test_there_is_a_fill_for_every_contender(self):
        names = [c.name for c in contenders.all_contenders('/lib/libbartender.so')]
        drawn = picture.Picture('', 'glibc', [], names, {}, '')
        self.assertEqual(len(set(drawn.fill.values())), len(names) - 1)

    def test_is_whole_and_stays_on_the_page(self):
        ratios = {f'workload {i}': {'a': 0.05 * (i + 1), 'bartender': 1000.0 / (i + 1)}
                  for i in range(40)}
        drawn = picture.Picture('a <title> & more', 'glibc',
                                [('first', list(ratios)[:3]), ('second', list(ratios)[3:])],
                                ['glibc', 'a', 'bartender'], ratios, 'scripts/bench ' + 'x' * 500).svg()
        root = xml.etree.ElementTree.fromstring(drawn)
        width, height = float(root.get('width')), float(root.get('height'))
        words = []
        for element in root.iter():
            words.append(element.text)
            x, y = float(element.get('x') or 0), float(element.get('y') or 0)
            self.assertTrue(0 <= x <= width and 0 <= y <= height, element.attrib)
        for name in ratios:
            self.assertIn(name, words)
        self.assertEqual(words.count('1000'), 1)
        self.assertLess(max(len(w) for w in words if w), 150)


if __name__ == '__main__':
    unittest.main()
